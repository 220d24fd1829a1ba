"""One picture per question: the final return of every seed, task by task, of all that is compared."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

from policykd.benchmark.bootstrap import iqm

Side = tuple[str, str]
"""A row of a benchmark, and the way of making one policy of its groups (``report.WAYS``)."""


def strips(
    returns: Mapping[Side, Mapping[str, np.ndarray]], names: Mapping[Side, str], ours: Collection[Side], path: Path
) -> None:
    """A point per seed, and a bar at the interquartile mean; ours in colour.

    Args:
        returns: final returns ``(S,)`` by side and task.
        names: what the picture calls each side, in this order.
        ours: which of them are in colour.
        path: the PNG to write.
    """
    sides = [side for side in names if returns.get(side)]
    tasks = sorted({task for side in sides for task in returns[side]})
    figure, axes = plt.subplots(1, len(tasks), figsize=(3.2 * len(tasks) + 1, 3.6), squeeze=False)
    for panel, task in zip(axes[0], tasks, strict=True):
        for place, side in enumerate(sides):
            found = returns[side].get(task)
            if found is None:
                continue
            colour = "C0" if side in ours else "grey"
            panel.plot(np.full(len(found), place), found, "o", color=colour, alpha=0.4, markersize=4)
            panel.plot([place - 0.3, place + 0.3], [iqm(found)] * 2, color=colour, linewidth=2)
        panel.set_title(task, fontsize=10)
        panel.set_xticks(range(len(sides)), [names[side] for side in sides], rotation=60, ha="right", fontsize=8)
        panel.set_xlim(-0.6, len(sides) - 0.4)
    axes[0][0].set_ylabel("return of the final evaluation")
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)
