"""Committed returns of single learners beside SB3's agents: docs/parity.md shows them, and sees no difference."""

import numpy as np
import pandas as pd
import pytest
from scipy.stats import trim_mean

pytest.importorskip("rliable")

from experiments.parity import report
from policykd.benchmark.results import Results
from policykd.benchmark.statistics import summarise
from policykd.core.errors import PolicyKDError


def test_the_page_shows_the_table_of_the_rows():
    table = report.table()
    assert f"<!-- parity table: begin -->\n{table}<!-- parity table: end -->" in report.PAGE.read_text(encoding="utf-8")
    assert len(report.cases()) == 11 and table.count("| none seen |") == 11


def test_a_difference_is_that_of_interquartile_means(monkeypatch):
    monkeypatch.setattr(report, "RESAMPLES", 200)
    ours, sb3 = np.array([1.0, 2.0, 3.0, 4.0, 9.0]), np.array([0.0, 1.0, 2.0, 3.0])
    gap, low, high = report.difference(ours, sb3)
    assert gap == trim_mean(ours, 0.25) - 1.5
    assert low < gap < high


@pytest.mark.parametrize("lost", ["missing", "not a number"])
def test_a_side_that_ends_earlier_is_refused(monkeypatch, tmp_path, lost):
    cells = [(who, seed, steps) for who in (report.OURS, report.SB3) for seed in (0, 1) for steps in (10, 20)]
    rows = pd.DataFrame(cells, columns=["who", "seed", "steps"]).assign(**{"return": 1.0})
    last = (rows.who == report.SB3) & (rows.seed == 1) & (rows.steps == 20)
    rows = rows[~last] if lost == "missing" else rows.assign(**{"return": rows["return"].where(~last)})
    rows.to_csv(tmp_path / "Pendulum-v1_td3.csv", index=False)
    monkeypatch.setattr(report, "ROWS", tmp_path)
    with pytest.raises(PolicyKDError, match="every evaluation of every seed"):
        report.table()


def test_what_is_said_of_choices():
    summary = summarise(Results(report.ROOT / "results/parity_choices"))
    better = summary.backbones["ppo"]["single"].better["selected"]["sb3"]
    said = f"a probability of {better.value:.2f} [{better.low:.2f}, {better.high:.2f}]"
    assert said in " ".join(report.PAGE.read_text(encoding="utf-8").split()) and better.low < 0.5 < better.high
