"""What int8 costs students with gated recurrent units: the page shows the table of the rows, and its sentence holds."""

from pathlib import Path

from experiments.latency.memory import KEYS, VALUES, table
from experiments.measurements import Measurements

ROOT = Path(__file__).parents[2]
ROWS = Measurements(ROOT / "results" / "latency" / "memory.csv", KEYS, VALUES)
PAGE = (ROOT / "docs" / "export.md").read_text(encoding="utf-8")


def test_the_page_shows_the_table_of_the_rows():
    assert table(ROWS) == (ROOT / "results" / "latency" / "memory.md").read_text(encoding="utf-8")
    assert table(ROWS) in PAGE


def test_the_page_says_what_the_rows_say():
    text, rows = " ".join(PAGE.split()), ROWS.where().set_index(["precision", "seed"])
    whole, small = rows.loc["float32"], rows.loc["int8"]
    share, slower = (small.constants / whole.constants).mean(), (small.median_us / whole.median_us).mean()
    assert f"Int8 takes {share:.2f} of the flash for constants, and {slower:.2f} times as long" in text
    change, spread = (small["return"] - whole["return"]).abs().max(), rows["std"].min()
    assert f"changes by at most {change:.0f}, where that of single episodes spreads by {spread:.0f} or more" in text
