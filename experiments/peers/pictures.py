"""One picture per question: the final return of every seed, task by task, of all that is compared."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

from policykd.benchmark.bootstrap import iqm

Side = tuple[str, str]
"""A row of a benchmark, and the way of making one policy of its groups (``report.WAYS``)."""


def strip_plot(
    returns: Mapping[Side, Mapping[str, np.ndarray]], names: Mapping[Side, str], ours: Collection[Side], path: Path
) -> None:
    """A point per seed, and a bar at the interquartile mean; ours in colour.

    Args:
        returns: final returns ``(S,)`` by side and task.
        names: what the picture calls each side, in this order.
        ours: which of them are in colour.
        path: the PNG to write.
    """
    shown = {task: [s for s in names if task in returns.get(s, {})] for side in names for task in returns.get(side, {})}
    tasks = sorted(shown)
    alike = all(shown[task] == shown[tasks[0]] for task in tasks)  # then the names stand once, on the left
    columns = len(tasks) if alike else 2
    most = max(map(len, shown.values()))
    rows = -(-len(tasks) // columns)
    size = (2.6 * columns + 2.4 if alike else 5 * columns, rows * (0.26 * most + 1))
    figure, axes = plt.subplots(rows, columns, figsize=size, squeeze=False)
    for number, panel in enumerate(axes.flat):
        if number >= len(tasks):
            panel.axis("off")
            continue
        task, sides = tasks[number], shown[tasks[number]]
        for place, side in enumerate(sides):
            found, colour = returns[side][task], "C0" if side in ours else "grey"
            panel.plot(found, np.full(len(found), place), "o", color=colour, alpha=0.4, markersize=4)
            panel.plot([iqm(found)] * 2, [place - 0.35, place + 0.35], color=colour, linewidth=2)
        panel.set_title(task, fontsize=10)
        first = number % columns == 0 or not alike
        panel.set_yticks(range(len(sides)), [names[side] for side in sides] if first else [], fontsize=8)
        panel.set_ylim(len(sides) - 0.4, -0.6)
        panel.tick_params(axis="x", labelsize=8)
        panel.grid(axis="x", color="#e6e6e6", linewidth=0.8)
    figure.supxlabel("return of the final evaluation", fontsize=9)
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)
