"""Committed results of cooperative distillation: what is claimed of them, and that the document shows them."""

import re
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

pytest.importorskip("sklearn")

from experiments.cooperative import run
from experiments.cooperative.report import EVEN, UCI
from experiments.measurements import mean_and_half

ROOT = Path(__file__).parents[2]
ROWS, PAGE = ROOT / "results/cooperative/rows.csv", ROOT / "docs/methods/cooperative.md"


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


def mean_gain(rows, name, arm):
    table = rows[rows["data"] == name].pivot_table(index=["seed", "learner"], columns="arm", values="accuracy")
    return 100 * (table[arm] - table["alone"]).mean()


def test_most_of_the_gain_is_that_rare_classes_arrive(rows):
    skewed, even = (np.mean([mean_gain(rows, name, "counterfactuals") for name in sets]) for sets in (UCI, EVEN))
    assert round(skewed, 1) == 8.6 and round(even, 1) == 1.5
    assert all(mean_gain(rows, f"{name}, even", "counterfactuals") > 1.8 for name in ("vowel", "texture", "letter"))


def test_sets_that_are_split_at_random_and_still_gain(rows):
    gained = {name: gains(rows, f"{name}, even").mean(axis=1) for name in UCI}
    beyond = {name for name, each in gained.items() if (found := mean_and_half(100 * each))[0] > found[1]}
    assert beyond == {"vowel", "texture", "letter", "vehicle", "satimage", "australian", "spambase"}


def test_raw_rows_cost_on_five_sets_of_two_classes_that_are_split_at_random(rows):
    two = ("wdbc", "phoneme", "german", "pima", "adult", "australian", "spambase")
    lost = {name for name in two if mean_gain(rows, f"{name}, even", "instances") < -1}
    assert lost == {"phoneme", "german", "pima", "adult", "australian"}
    assert min(mean_gain(rows, f"{name}, even", "counterfactuals") for name in two) > 0


def test_rows_are_written_once(rows):
    assert not rows.duplicated(["data", "seed", "arm", "learner", "teacher"]).any()


def test_the_page_shows_the_rows(tmp_path):
    out, page = tmp_path / "cooperative", tmp_path / "page.md"
    shutil.copytree(ROWS.parent, out)
    text = PAGE.read_text(encoding="utf-8")
    emptied = re.sub(r"(<!-- (\w+) table: begin -->\n).*?(<!-- \2 table: end -->)", r"\1\3", text, flags=re.S)
    assert emptied != text
    page.write_text(emptied)
    run.main(run.Options(out=out, page=page, report=True))
    assert page.read_text(encoding="utf-8") == text
