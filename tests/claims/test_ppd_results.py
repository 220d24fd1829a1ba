"""The table of PPD in docs/students_measured.md is that of the rows, and its sentences hold."""

from pathlib import Path

from experiments.measurements import Measurements
from experiments.ppd.report import table
from experiments.ppd.run import KEYS, VALUES

ROOT = Path(__file__).parents[2]
ROWS = Measurements(ROOT / "results" / "ppd" / "rows.csv", KEYS, VALUES)
PAGE = (ROOT / "docs" / "students_measured.md").read_text(encoding="utf-8")
TEXT = " ".join(PAGE.split())


def test_the_page_shows_the_table_of_the_rows():
    assert table(ROWS) in PAGE


def test_what_the_ratio_does():
    def of(way, what):
        found = ROWS.where(protocol="table, SAC teacher", way=way)
        return found.groupby("steps")[what].mean()

    without, ppd = (", ".join(f"{x:.2f}" for x in of(way, "retention")) for way in ("ppd without the ratio", "ppd"))
    without, ppd = (" and ".join(line.rsplit(", ", 1)) for line in (without, ppd))
    assert f"the same students keep {without} of the teacher where `ppd` keeps {ppd}." in TEXT
    assert of("ppd", "std").min() > 2 * of("ppd without the ratio", "std").iloc[1:].max()
    assert of("ppd", "distance").min() > 5 and of("ppd", "distance").max() < 8


def test_what_it_keeps_at_its_papers_budget():
    found = ROWS.where(protocol="paper, PPO teacher", way="ppd")
    kept = found.groupby("steps")["retention"].mean()
    said = [f"{kept[kept.index >= steps].iloc[0]:.2f}" for steps in (1_000_000, 2_000_000, 300_000)]
    assert f"keeps {said[0]} of the zoo's PPO HalfCheetah after 1,000,000 steps and {said[1]} after 2,000,000" in TEXT
    assert f"after 300,000 it keeps {said[2]}." in TEXT
    student, teacher = found.parameters.iloc[0], (17 * 256 + 256) + (256 * 256 + 256) + (256 * 6 + 6)
    assert f"a student of {student:,} parameters, {student / teacher:.2f} of its teacher's" in TEXT
