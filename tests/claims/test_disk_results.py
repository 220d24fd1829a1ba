"""Committed results of DiSK after a long warm start: the table is that of the rows, and the page's words are, too."""

from itertools import product
from pathlib import Path

import pandas as pd
import pytest

pytest.importorskip("accelerate")

from experiments.disk import run
from experiments.measurements import Measurements, mean_and_half

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs/methods/disk.md"


@pytest.fixture(scope="module")
def rows():
    return Measurements(ROOT / "results/disk/rows.csv", run.KEYS, run.VALUES)


def test_table_is_that_of_the_rows(rows):
    published = (
        PAGE.read_text(encoding="utf-8").split("<!-- disk table: begin -->\n")[1].split("<!-- disk table: end -->")[0]
    )
    assert run.table(rows) == published == (ROOT / "results/disk/rows.md").read_text(encoding="utf-8")
    assert len(rows.rows) == 5 * len(run.SETS) * (1 + len(run.WIDTHS) * len(run.ROWS))
    assert not pd.DataFrame(rows.rows).duplicated(list(run.KEYS)).any()


def test_the_guide_helps_students_of_letter_and_no_others(rows):
    text = " ".join(PAGE.read_text(encoding="utf-8").split())

    def gain(name, width, row, than):
        return mean_and_half(run.difference(rows, name, width, row, than))

    small, large = (gain("letter", width, "disk", "hinton") for width in run.WIDTHS)
    told = (
        f"{small[0]:.2f} ± {small[1]:.2f} (4 units) and {large[0]:.2f} ± {large[1]:.2f} points (8 units) above Hinton"
    )
    assert told in text
    for than in ("hinton", "no_help"):
        apart = {}
        for key in product(run.SETS, run.WIDTHS, run.BUDGETS):
            mean, half = gain(*key, than)
            if abs(mean) > half:
                apart[key] = mean
        assert len(apart) == 4 and min(apart.values()) > 0 and {name for name, *_ in apart} == {"letter"}
    for width in run.WIDTHS:
        mean, half = gain("letter", width, "no_help", "hinton")
        assert abs(mean) < 0.1 and half < 0.25
    for name, width in product(run.SETS, run.WIDTHS):
        assert abs(gain(name, width, "labels", "hinton")[0]) < 1
    helps = [
        rows.values("help", data=d, width=w, row=r).mean() for d, w, r in product(run.SETS, run.WIDTHS, run.BUDGETS)
    ]
    assert min(helps) >= 0 and round(max(helps), 2) == 0.1
