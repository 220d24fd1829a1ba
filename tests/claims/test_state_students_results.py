"""Policies from states alone: the committed table is that of the committed rows, and the page shows it."""

from pathlib import Path

from experiments.measurements import Measurements
from experiments.state_students.report import table
from experiments.state_students.run import KEYS, VALUES

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "results" / "state_students"


def test_the_table_is_that_of_the_rows():
    made = table(Measurements(RESULTS / "rows.csv", KEYS, VALUES)) + "\n"
    assert made == (RESULTS / "table.md").read_text()
    assert made in (ROOT / "docs" / "offline.md").read_text()


def test_the_page_says_what_the_rows_say():
    page = " ".join((ROOT / "docs" / "offline.md").read_text().split())
    rows = Measurements(RESULTS / "rows.csv", KEYS, VALUES).where(task="HalfCheetah-v5")
    means = rows.groupby(["method", "width", "weight"])[["return", "error"]].mean()
    assert means["error"].idxmin() == means["return"].idxmin() == ("8-NN", 0, 0)
    assert means["return"].idxmax()[0] == "retrieval"
    own = rows[(rows.method == "retrieval") & (rows.width == 8)]["return"]
    assert f"from {own.min():,.0f} to {own.max():,.0f}" in page
    assert f"returns {rows.teacher_return.iloc[0]:,.0f}, random actions {rows.random_return.iloc[0]:,.0f}" in page
    assert f"{rows.gradient_steps.max():,} steps" in page and f"hold {rows.explained.iloc[0]:.2f} of" in page
