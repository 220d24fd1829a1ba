"""Committed results of classification: the table is what the rows say, and every method has its page."""

from pathlib import Path

import pandas as pd

from experiments.classification import defaults, run
from experiments.measurements import interval
from policykd.distillation.supervised import METHODS
from policykd.distillation.supervised.config import HintonConfig

ROOT = Path(__file__).resolve().parents[2]
BEGIN, END = "<!-- fashion-mnist table: begin -->\n", "<!-- fashion-mnist table: end -->"


def test_table_is_that_of_the_rows():
    rows = pd.read_csv(ROOT / "results/classification/fashion_mnist.csv")
    page = (ROOT / "docs/classification.md").read_text(encoding="utf-8")
    written = page.split(BEGIN)[1].split(END)[0]
    assert written == run.tabulated(rows)


def test_the_words_on_disk_are_those_of_the_table():
    rows = pd.read_csv(ROOT / "results/classification/fashion_mnist.csv")
    accuracy = rows.pivot(index="seed", columns="variant", values="accuracy")
    gain = interval(100 * (accuracy["disk"] - accuracy["hinton_warm"]))
    for page in ("docs/classification.md", "docs/methods/disk.md"):
        words = (ROOT / page).read_text(encoding="utf-8").rpartition(END)[2]
        assert f"{gain} points of accuracy" in " ".join(words.split()), page


def test_rows_are_equal_terms():
    """Every student had the same passes and parameters; no row is there twice."""
    rows = pd.read_csv(ROOT / "results/classification/fashion_mnist.csv")
    assert rows["student_passes"].nunique() == rows["parameters"].nunique() == 1
    assert not rows.duplicated(["variant", "seed"]).any()
    assert (rows["variant"].value_counts() == 5).all() and set(rows["variant"]) == set(run.VARIANTS)
    teachers = rows[rows["variant"] != "hinton_ensemble"].groupby("seed")["teacher_accuracy"]
    assert (teachers.nunique() == 1).all()


def test_the_defaults_are_those_that_the_search_found():
    """The highest mean gain over labels alone in the worst pair of learning rate and length, over sets and seeds."""
    rows = pd.read_csv(ROOT / "results/classification/defaults_search.csv")
    assert rows.groupby("data")["seed"].nunique().to_dict() == dict.fromkeys(rows["data"].unique(), 5)
    assert rows["data"].nunique() == 6
    setting, pair = ["fade", "alpha", "temperature"], ["epochs", "learning_rate"]
    gains = 100 * rows[rows["alpha"] > 0].groupby([*setting, *pair])["gain"].mean().unstack(pair)
    config, words = HintonConfig(), (ROOT / "docs/methods/hinton.md").read_text(encoding="utf-8")
    assert gains.min(axis=1).idxmax() == (config.alpha_schedule, config.alpha, config.temperature)
    for found in (gains.loc[gains.min(axis=1).idxmax()], gains.loc["constant", 0.9, 4.0]):
        assert f"{found.min():.2f}" in words and f"{found.mean():.2f}" in words


def test_the_table_of_the_default_command_is_that_of_its_rows():
    rows = pd.read_csv(ROOT / "results/classification/defaults.csv")
    page = (ROOT / "docs/classification.md").read_text(encoding="utf-8")
    begin, end = (f"<!-- defaults table: {word} -->\n" for word in ("begin", "end"))
    assert page.split(begin)[1].split(end)[0] == defaults.tabulated(rows)
    assert not rows.duplicated(["data", "method", "seed"]).any()


def test_every_method_has_its_page():
    page = (ROOT / "docs/classification.md").read_text(encoding="utf-8")
    for name in METHODS:
        (row,) = [line for line in page.splitlines() if line.startswith("| `") and f"`{name}`" in line and "](" in line]
        text = (ROOT / "docs" / row.split("](")[1].split(")")[0]).read_text(encoding="utf-8")
        for heading in ("## Idea", "## Equation", "## Differences", "## Logged keys", "## How to repeat"):
            assert heading in text, f"{name} lacks {heading}"
