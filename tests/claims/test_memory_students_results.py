"""The table of docs/memory.md is that of the rows, and its sentences hold."""

from pathlib import Path

from experiments.measurements import Measurements
from experiments.memory_students.report import table
from experiments.memory_students.run import KEYS, VALUES

ROOT = Path(__file__).parents[2]
ROWS = Measurements(ROOT / "results" / "memory_students" / "rows.csv", KEYS, VALUES)
PAGE = (ROOT / "docs" / "memory.md").read_text()


def test_the_page_shows_the_table_of_the_rows():
    assert table(ROWS) in PAGE


def test_what_a_history_keeps():
    def kept(protocol, student):
        return round(ROWS.where(task="HalfCheetah-v5", protocol=protocol, student=student)["retention"].mean(), 2)

    with_it, without = (kept("full", student) for student in ("history of 4", "feed-forward"))
    assert f"a history of four observations keeps {with_it:.2f} of the teacher's return" in PAGE
    assert f"and one observation {without:.2f}; after a tenth" in PAGE
    short = [kept("short", student) for student in ("history of 4", "feed-forward")]
    assert f"the budget {short[0]:.2f} and {short[1]:.2f}." in PAGE
