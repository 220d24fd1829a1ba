"""Table and picture of docs/parity.md from the raw returns in results/parity.

python -m experiments.parity.report
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import tyro

from policykd.benchmark.bootstrap import interval, iqm
from policykd.benchmark.documents import publish
from policykd.cli import guarded
from policykd.core.errors import PolicyKDError
from policykd.measure.plots import comparison_grid

ROOT = Path(__file__).parents[2]
ROWS, PAGE = ROOT / "results/parity", ROOT / "docs/parity.md"
OURS, SB3 = "policykd", "SB3"
TASKS = ("Pendulum-v1", "InvertedDoublePendulum-v5", "HalfCheetah-v5")
BACKBONES = ("ddpg", "td3", "sac", "ppo")
RESAMPLES = 10_000


def scores(task: str, backbone: str) -> dict[str, pd.DataFrame]:
    """By side, the mean return of every evaluation (rows, by environment steps) and seed (columns).

    Raises:
        PolicyKDError: an evaluation of one of the seeds is missing, or not a number: its side would end earlier.
    """
    rows = pd.read_csv(ROWS / f"{task}_{backbone}.csv")
    means = rows.groupby(["steps", "who", "seed"])["return"].agg(lambda of: of.mean(skipna=False)).unstack([1, 2])
    if means.isna().to_numpy().any():
        raise PolicyKDError(f"parity: {task}_{backbone}.csv has not every evaluation of every seed, as a number")
    return {side: means[side] for side in (OURS, SB3)}


def difference(ours: np.ndarray, sb3: np.ndarray) -> tuple[float, float, float]:
    """Difference of interquartile means of scores ``(S,)`` and its 95 % bootstrap interval."""
    return interval([ours[:, None], sb3[:, None]], lambda x, y: (iqm(x) - iqm(y)).item(), RESAMPLES)


def table() -> str:
    """A line per task and backbone."""
    lines = [
        "| task | backbone | steps | policykd IQM (seeds) | SB3 IQM (seeds) | difference | 95 % interval | |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for task, backbone in cases():
        sides = scores(task, backbone)
        ours, sb3 = (sides[side].iloc[-1].to_numpy() for side in (OURS, SB3))
        gap, low, high = difference(ours, sb3)
        verdict = "none seen" if low <= 0 <= high else ("ours better" if low > 0 else "**ours worse**")
        lines.append(
            f"| {task} | {backbone.upper()} | {sides[OURS].index[-1]:,} | {iqm(ours):,.0f} ({len(ours)}) "
            f"| {iqm(sb3):,.0f} ({len(sb3)}) | {gap:+,.0f} | {low:+,.0f} to {high:+,.0f} | {verdict} |"
        )
    return "\n".join(lines) + "\n"


def cases() -> list[tuple[str, str]]:
    """Tasks and backbones with rows."""
    return [(t, b) for t in TASKS for b in BACKBONES if (ROWS / f"{t}_{b}.csv").exists()]


def picture() -> None:
    panels = []
    for task, backbone in cases():
        sides = {side: (found.index.to_numpy(), found.to_numpy()) for side, found in scores(task, backbone).items()}
        panels.append((f"{task}, {backbone.upper()}", sides))
    comparison_grid(panels, ROWS / "learning_curves.png", title="Learners alone against SB3, equal settings")


def main() -> None:
    publish(table(), PAGE, "parity table")
    picture()


if __name__ == "__main__":
    guarded(lambda: tyro.cli(main, description=__doc__))
