"""What docs/runs.md says of two hundred kills is what the rows say."""

from pathlib import Path

import pandas as pd

ROOT = Path(__file__).parents[2]


def test_two_hundred_kills_changed_nothing():
    rows = pd.read_csv(ROOT / "results/kills/kills.csv")
    early = int((rows["saved"] == 0).sum())
    assert len(rows) == 200 and rows["identical"].sum() == 200
    page = " ".join((ROOT / "docs/runs.md").read_text(encoding="utf-8").split())
    assert (
        f"200 of 200 were bit-identical ([rows](../results/kills)), {early} of them killed before a checkpoint" in page
    )
