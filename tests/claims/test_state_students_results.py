"""Policies from states alone: the committed table is that of the committed rows, and the page shows it."""

from pathlib import Path

from experiments.measurements import Measurements, mean_and_half
from experiments.state_students.report import table
from experiments.state_students.run import KEYS, VALUES

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "results" / "state_students"


def test_the_table_is_that_of_the_rows():
    made = table(Measurements(RESULTS / "rows.csv", KEYS, VALUES)) + "\n"
    assert made == (RESULTS / "table.md").read_text(encoding="utf-8")
    assert made in (ROOT / "docs" / "offline.md").read_text(encoding="utf-8")


def test_the_page_says_what_the_rows_say():
    page = " ".join((ROOT / "docs" / "offline.md").read_text(encoding="utf-8").split())
    rows = Measurements(RESULTS / "rows.csv", KEYS, VALUES).where(task="HalfCheetah-v5")
    means = rows.groupby(["width", "method", "weight"])[["return", "error"]].mean()
    gain = means["return"] - means["return"].xs(("plain", 0), level=("method", "weight"))  # of the same width
    half = mean_and_half(rows[(rows.width == 8) & (rows.method == "plain")]["return"])[1]
    others = [method for method in gain.index.unique("method") if method != "retrieval"]
    assert gain.loc[:, others].max() < half
    assert (gain.loc[8, ["rkd", "rid", "disk"]] < 0).all()
    assert (gain.loc[16, ["rkd", "rid", "disk", "fitnets"]] < 0).all()
    large = means["return"][64] / rows.teacher_return.iloc[0]
    assert f"and 64 to {large['plain', 0]:.2f}." in page
    assert f"its actions keep {large['plain, mixed with 8-NN', 0]:.2f}." in page
    assert means["return"].idxmin()[1] == "8-NN"
    assert means["error"][0, "8-NN", 0] < means["error"][16, "plain", 0]
    for width, least in ((8, "0.14"), (16, "0.37")):
        assert f"{means['return'][width, 'plain', 0] / rows.teacher_return.iloc[0]:.2f}" == least
        assert means["return"][width].idxmax()[0] == "retrieval"
        mean, half = mean_and_half(rows[(rows.width == width) & (rows.method == "retrieval")]["return"])
        assert mean - half < means["return"][width, "plain", 0]
    apart = rows.pivot_table("return", ["width", "seed"], "method").dropna(subset=["plain", "retrieval"])
    assert (apart.retrieval > apart.plain).sum() == 7 and len(apart) == 10
    assert f"returns {rows.teacher_return.iloc[0]:,.0f}, random actions {rows.random_return.iloc[0]:,.0f}" in page
    assert f"{rows.gradient_steps.max():,} steps" in page and f"hold {rows.explained.iloc[0]:.2f} of" in page
