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


def test_the_chances_of_dpd():
    pytest.importorskip("rliable")
    from experiments.peers.answers import answers

    found = {(a.ours, a.theirs): a for a in answers() if a.question == "Table 1"}

    def said(method, control):
        answer = found[f"{method}, mean of peers", control]
        assert answer.tasks == ("HalfCheetah-v5", "Swimmer-v5")
        return f"{answer.better.value:.2f} [{answer.better.low:.2f}, {answer.better.high:.2f}]", answer.p

    page, controls = " ".join(TEXT.split()), ("single", "independent, mean of peers")
    (alone, _), (code_alone, _) = (said(method, controls[0]) for method in ("dpd", "dpd_published_code"))
    (sharing, _), (code_sharing, p) = (said(method, controls[1]) for method in ("dpd", "dpd_published_code"))
    assert f"| `dpd` | {alone} | {sharing} |" in page and f"(the least p is {p:.2f})" in page
    assert f"| `dpd_published_code` | {code_alone} | {code_sharing} |" in page
    assert all(a.better.low < 0.5 < a.better.high for (_, control), a in found.items() if control == "single")
    assert p == min(a.p for a in found.values()) > 0.05
