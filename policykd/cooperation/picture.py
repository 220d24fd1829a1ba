"""The teaching graph: who taught whom, how much, and with what result."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch

from policykd.measure.plots import COLOURS, FAINT, INK, TIGHT, save_figure

WIDEST = 7.0
"""Line width in points of the arrow with the most rows sent."""
BEHIND = {"boxstyle": "round,pad=0.15", "facecolor": "white", "edgecolor": "none", "alpha": 0.85}
MOST_LABELS = 12
"""With more arrows than this, none is labelled."""


def teaching_graph(
    lessons: pd.DataFrame, accuracy: pd.DataFrame, path: str | os.PathLike[str], *, title: str = "Who taught whom"
) -> Path:
    """Draw learners in a ring, with arrows from teacher to student for the rows sent over all rounds, as a PNG.

    Args:
        lessons: ``CooperativeDistillation.lessons_``.
        accuracy: ``CooperativeDistillation.accuracy_``, shown before and after teaching, on validation data if any.
        path: the PNG file, replaced atomically. Its folder is created if missing.
        title: title of the figure.
    """
    names = list(dict.fromkeys(accuracy["learner"]))
    angles = np.pi / 2 - 2 * np.pi * np.arange(len(names)) / len(names)
    place = {name: np.array([np.cos(a), np.sin(a)]) for name, a in zip(names, angles, strict=True)}
    sent = lessons.groupby(["teacher", "student"])["sent"].sum()
    sent = sent[sent > 0]
    size = max(1.0, len(names) / 11)  # keeps neighbouring boxes apart
    figure = Figure(figsize=(7.0 * size, 6.4 * size), dpi=150, facecolor="white", layout="constrained")
    axes = figure.subplots()
    for (teacher, student), count in sent.items():
        _arrow(axes, place[teacher], place[student], count, sent.max(), names.index(teacher), len(sent))
    column = "validation" if "validation" in accuracy else "train"
    for index, name in enumerate(names):
        rounds = accuracy[accuracy["learner"] == name].sort_values("round")[column].to_numpy()
        axes.text(
            place[name][0],
            place[name][1],
            f"{name}\n{100 * rounds[0]:.1f} → {100 * rounds[-1]:.1f} %",
            ha="center",
            va="center",
            fontsize=9,
            color=INK,
            parse_math=False,
            bbox={"boxstyle": "round,pad=0.45", "facecolor": "white", "edgecolor": _colour(index), "linewidth": 1.6},
            zorder=5,
        )
    axes.set(xlim=(-1.45, 1.45), ylim=(-1.3, 1.3), aspect="equal")
    axes.axis("off")
    axes.set_title(title, fontsize=13, fontweight="bold", color=INK, loc="left", parse_math=False)
    data = "validation data" if column == "validation" else "their own rows"
    figure.supxlabel(
        f"arrow: rows sent from teacher to student, {sent.sum():,} in all; in the boxes: accuracy on {data}, "
        "first → last round",
        fontsize=8,
        color=FAINT,
    )
    return save_figure(figure, Path(path), **TIGHT, metadata={"Software": None})


def _arrow(axes: Axes, start: np.ndarray, end: np.ndarray, count: int, most: int, index: int, arrows: int) -> None:
    """Draw a curved arrow, so that both directions of a pair are visible."""
    width = max(WIDEST * count / most, 0.4)
    axes.add_patch(
        FancyArrowPatch(
            tuple(start),
            tuple(end),
            connectionstyle="arc3,rad=0.16",
            arrowstyle="-|>",
            mutation_scale=10 + 2.5 * width,
            shrinkA=34,
            shrinkB=38,
            linewidth=width,
            color=_colour(index),
            alpha=0.55,
        )
    )
    if arrows <= MOST_LABELS:
        across = np.array([end[1] - start[1], start[0] - end[0]])  # the side to which the arrow curves
        x, y = (start + end) / 2 + 0.09 * across
        axes.text(x, y, f"{count:,}", fontsize=8, color=_colour(index), ha="center", va="center", bbox=BEHIND)


def _colour(index: int) -> str:
    return COLOURS[index % len(COLOURS)]
