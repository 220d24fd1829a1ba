"""What docs/dpd.md says of the paper's Table 1 is what the rows say."""

import re
from pathlib import Path

import pandas as pd
import pytest

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs/dpd.md").read_text(encoding="utf-8")


def test_returns_of_peers_beside_one_agent():
    pytest.importorskip("rliable")
    from policykd.benchmark.bootstrap import iqm

    tables = re.findall(r"^\| (\w+) \| mean of the peers .*\n\|[-|]+\n((?:\|.*\n)+)", TEXT, re.MULTILINE)
    assert tables
    for task, lines in tables:
        for line in lines.splitlines():
            method, mean, better = re.fullmatch(r"\| `(\w+)`.* \| ([\d,]+) \| ([\d,]+|-) \|", line).groups()
            rows = pd.read_csv(ROOT / f"results/peers_table1/{task}-v5/{method}.csv").query("phase == 'final'")
            by_group = rows.groupby("seed")["return"]
            assert len(by_group) == 10
            assert mean == f"{iqm(by_group.mean().to_numpy()):,.0f}"
            assert better == ("-" if method == "single" else f"{iqm(by_group.max().to_numpy()):,.0f}")


def test_the_chance_that_two_peers_with_dpd_do_better():
    pytest.importorskip("rliable")
    from experiments.peers.answers import answers

    found = answers()
    (answer,) = (a for a in found if (a.ours, a.theirs) == ("dpd, mean of peers", "single"))
    assert answer.tasks == ("HalfCheetah-v5", "Swimmer-v5")
    chance = f"P {answer.better.value:.2f} [{answer.better.low:.2f}, {answer.better.high:.2f}]"
    assert f"the mean of peers with DPD over both tasks: {chance}" in " ".join(TEXT.split())
    assert all(a.better.low < 0.5 < a.better.high for a in found if a.question == answer.question)
