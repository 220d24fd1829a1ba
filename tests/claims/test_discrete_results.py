"""Students of teachers that choose: the committed table is that of the committed rows, and holds what the page says."""

from pathlib import Path

import pandas as pd
import pytest

from experiments.discrete.report import TASKS, table

RESULTS = Path(__file__).parents[2] / "results" / "discrete"


def test_the_table_is_that_of_the_rows():
    assert table(RESULTS) in (RESULTS / "students.md").read_text(encoding="utf-8")
    assert table(RESULTS) in (RESULTS.parents[1] / "docs" / "discrete.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("teacher", [name for name in TASKS if (RESULTS / f"{name}.csv").exists()])
def test_every_wide_student_keeps_98_percent_of_its_teacher(teacher):
    rows = pd.read_csv(RESULTS / f"{teacher}.csv")
    wide = rows[(rows["student"] == "64x64") & rows["divergence"].isin(["auto", "kl_forward"])]
    assert sorted(wide["seed"]) == [0, 1, 2]
    assert (wide["retention"] >= 0.98).all()
