"""What docs/dpd.md says of the paper's Table 1 is what the rows say."""

from pathlib import Path

import pandas as pd
import pytest

ROOT = Path(__file__).parents[2]
TEXT = " ".join((ROOT / "docs/dpd.md").read_text().split())


def test_what_is_said_of_swimmer():
    pytest.importorskip("rliable")
    from policykd.benchmark.bootstrap import iqm

    means, better = {}, {}
    for method in ("single", "dpd", "independent"):
        rows = pd.read_csv(ROOT / f"results/peers_table1/Swimmer-v5/{method}.csv").query("phase == 'final'")
        by_group = rows.groupby("seed")["return"]
        assert len(by_group) == 10
        means[method], better[method] = iqm(by_group.mean().to_numpy()), iqm(by_group.max().to_numpy())
    assert (
        f"peers with DPD {means['dpd']:.0f}, two that share nothing {means['independent']:.0f}, "
        f"the agent {means['single']:.0f}. The better of two peers, told afterwards, has {better['dpd']:.0f} with DPD "
        f"and {better['independent']:.0f} without"
    ) in TEXT
