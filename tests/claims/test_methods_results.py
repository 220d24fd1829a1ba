"""The tables of all methods of a teacher are those of the rows, and sentences about them hold."""

from pathlib import Path

import pandas as pd
import pytest

from experiments.teacher_student.methods import report
from policykd.distillation.methods import TEACHER_METHODS

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "results/teacher_student"
TEXT = " ".join((ROOT / "docs/teacher_student.md").read_text().split())


def iqms(condition):
    """Interquartile means at 100,000 steps by method, as the table shows them."""
    part = (
        (FOLDER / "methods.md").read_text().split(f"## {condition}, 100,000 environment steps\n")[1].split("\n## ")[0]
    )
    lines = [line.split(" | ") for line in part.splitlines() if line.startswith("| ")][1:]
    return {line[0].removeprefix("| "): float(line[1]) for line in lines}


@pytest.mark.slow
def test_the_tables_are_those_of_the_rows(tmp_path):
    pytest.importorskip("rliable")
    report(pd.read_csv(FOLDER / "methods.csv"), tmp_path / "methods.md")
    assert (tmp_path / "methods.md").read_text() == (FOLDER / "methods.md").read_text()


def test_what_is_said_of_100000_steps():
    small, blind = iqms("8x8 student"), iqms("no velocities")
    assert f"`dagger` keeps {small['dagger']:.2f} and {blind['dagger']:.2f}, `student_driven` 0.49 both times" in TEXT
    assert small["student_driven"] == blind["student_driven"] == 0.49
    beside_rl = {name for name, row in TEACHER_METHODS.items() if row.coupling != "alone"} - {"fine_tune"}
    best = [max((found[name], name) for name in beside_rl) for found in (small, blind)]
    said = f"at or below {best[0][0]:.2f} and {best[1][0]:.2f} (`{best[0][1]}`, `{best[1][1]}`)"
    assert said in TEXT and f"`bc` stays at {small['bc']:.2f} and {blind['bc']:.2f}" in TEXT
    assert max(found for found, _ in best) < 0.49
