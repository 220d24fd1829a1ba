"""Committed results of fidelity and RID: the tables are those of the rows, and the rows hold what is claimed."""

import importlib
import re
from pathlib import Path

import pytest

pytest.importorskip("accelerate")
pytest.importorskip("torchmetrics")

from experiments.measurements import Measurements

ROOT = Path(__file__).resolve().parents[2]
EXPERIMENTS = {
    "experiments.fidelity.data": ("results/fidelity/data", "docs/fidelity.md"),
    "experiments.fidelity.start": ("results/fidelity/start", "docs/fidelity.md"),
    "experiments.rid.teachers": ("results/rid/teachers", "docs/rid_teachers.md"),
    "experiments.rid.information": ("results/rid/information", "docs/pid.md"),
}


LENET = ("results/fidelity/lenet", "docs/fidelity.md")


@pytest.mark.parametrize(("name", "place", "page"), [*((n, *e) for n, e in EXPERIMENTS.items()), ("lenet", *LENET)])
def test_tables_are_those_of_the_rows(name, place, page, tmp_path):
    raw = ROOT / f"{place}.csv"
    if not raw.exists():
        pytest.skip(f"no {place}.csv: the experiment has not been run")
    header = raw.read_text(encoding="utf-8").partition("\n")[0].split(",")
    lenet = name == "lenet"
    module = importlib.import_module("experiments.fidelity.data" if lenet else name)
    table = module.write_report(Measurements(raw, header, ()), tmp_path, *(["lenet"] if lenet else []))
    assert table == (ROOT / f"{place}.md").read_text(encoding="utf-8")
    assert (tmp_path / f"{Path(place).name}.png").exists()
    lines = [line for line in table.splitlines() if line.startswith("|")]
    assert all(line in (ROOT / page).read_text(encoding="utf-8") for line in lines), f"{page} shows an older table"


TABLES = {
    "experiments.rid.precision": ("results/rid/precision", "docs/pid.md"),
    "experiments.rid.sweep": ("results/rid/sweep", "docs/rid_teachers.md"),
}


@pytest.mark.parametrize("name", TABLES)
def test_tables_without_a_picture_are_those_of_the_rows(name):
    place, page = TABLES[name]
    if not (ROOT / f"{place}.csv").exists():
        pytest.skip(f"no {place}.csv: the experiment has not been run")
    rows, module = measured(name)
    text = module.table(rows)
    assert text == (ROOT / f"{place}.md").read_text(encoding="utf-8")
    assert text.strip() in (ROOT / page).read_text(encoding="utf-8"), f"{page} shows an older table"


def test_at_equal_weights_rid_protects_no_more_than_vid():
    rows, module = measured("experiments.rid.sweep")
    assert len(rows.rows) == 5 * len(module.CASES)

    def accuracy(teacher, method, reduction, weight):
        key = {"teacher": teacher, "method": method, "reduction": reduction, "weight": weight}
        return rows.values("accuracy", **key).mean()

    none = accuracy(*module.NONE)
    for weight in (100, 1_000):
        rid, vid = (accuracy("untrained", method, "sum", weight) for method in ("rid", "vid"))
        assert abs(rid - vid) < 0.03 and max(rid, vid) < none - 0.1
    means = [accuracy("untrained", method, "mean", w) for method in module.METHODS for w in module.WEIGHTS]
    assert min(means) > none - 0.04
    trained = {c: accuracy(*c) for c in module.CASES if c.teacher == "trained"}
    assert max(trained, key=trained.get) == ("trained", "rid", "mean", 100)


def test_general_tables_are_decomposed_to_less_than_a_millionth_of_a_bit():
    rows, module = measured("experiments.rid.precision")
    assert len(rows.rows) == 20 * len(module.KINDS) * len(module.SIZES)
    assert rows.values("bits").max() < 1e-6


def measured(name):
    raw = ROOT / f"{(EXPERIMENTS | TABLES)[name][0]}.csv"
    header = raw.read_text(encoding="utf-8").partition("\n")[0].split(",")
    return Measurements(raw, header, ()), importlib.import_module(name)


def test_claim_of_rid_in_the_rows():
    """At width 8 an untrained teacher costs RID at most 0.06 and VID at least 0.3 more, as means over five seeds."""
    rows, module = measured("experiments.rid.teachers")
    none, rid, vid = (
        module.accuracy(rows, 8, arm)
        for arm in (module.BASELINE, module.Arm("rid", "untrained"), module.Arm("vid", "untrained"))
    )
    assert len(none) == len(rid) == len(vid) == 5
    assert (rid - none).mean() >= -0.06 and (rid - vid).mean() >= 0.3


def test_with_a_trained_teacher_vid_is_the_better_choice_at_width_32_alone():
    rows, module = measured("experiments.rid.teachers")

    def mean(width, method, teacher="trained"):
        return module.accuracy(rows, width, module.Arm(method, teacher)).mean()

    assert mean(32, "vid_mean") > mean(32, "rid") + 0.01
    assert mean(8, "vid_mean") < mean(8, *module.BASELINE) - 0.07
    assert abs(mean(8, "rid") - mean(8, *module.BASELINE)) < 0.005


def test_claims_of_fidelity_in_the_rows():
    rows, module = measured("experiments.fidelity.data")

    def agreement(asked, network, split="test"):
        values = rows.values("agreement", asked=asked, network=network, split=split)
        assert len(values) == 3
        return values.mean()

    few, more, most = (agreement(size, "student") for size in module.SIZES)
    assert few < more < most
    assert agreement("4,000", module.CONTROL) < most - 0.03 and agreement("4,000", module.LOOSE) < most - 0.1
    rows, module = measured("experiments.fidelity.start")

    def near(fraction, split, longer=1):
        values = rows.values("agreement", width=32, fraction=fraction, longer=longer, split=split)
        assert len(values) == 3
        return values.mean()

    assert near(0.375, "test") - near(0.125, "test") > 0.1  # the jump
    assert near(0.0, "train", 4) > near(0.0, "train") + 0.05 and near(0.0, "test", 4) <= near(0.0, "test")


@pytest.mark.parametrize("page", sorted({page for _, page in EXPERIMENTS.values()} | {"docs/classification.md"}))
def test_pictures_of_the_pages_are_there(page):
    links = re.findall(r"!\[[^]]*]\(([^)]+)\)", (ROOT / page).read_text(encoding="utf-8"))
    assert links and all((ROOT / page).parent.joinpath(link).exists() for link in links)


def test_claims_of_lenet_in_the_rows():
    raw = ROOT / f"{LENET[0]}.csv"
    rows = Measurements(raw, raw.read_text(encoding="utf-8").partition("\n")[0].split(","), ())

    def mean(name, asked, network="student"):
        values = rows.values(name, asked=asked, network=network, split="test")
        assert len(values) == 5
        return values.mean()

    assert mean("agreement", "200") < 0.88 < mean("agreement", "1,000") < mean("agreement", "4,000") < 0.965
    assert mean("agreement", "4,000, mixup") > 0.97 and mean("agreement", "4,000", "control") < 0.91
    assert mean("kl", "4,000", "control") > 6 * mean("kl", "4,000")
    assert mean("accuracy", "200") < mean("accuracy", "labels", "teacher") < mean("accuracy", "4,000") + 0.01
