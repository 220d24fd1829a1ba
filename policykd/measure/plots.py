"""Plots of learning curves, drawn without a display and without pyplot's global state."""

from __future__ import annotations

import io
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import EngFormatter, MaxNLocator

from policykd.core.errors import PolicyKDError
from policykd.core.files import file_path, write_bytes
from policykd.tasks.evaluate import Evaluation

# Okabe and Ito's colour-blind-safe palette, without its yellow (too pale on white).
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
LineStyle = str | tuple[float, tuple[float, ...]]
LINE_STYLES: tuple[LineStyle, ...] = ("-", (0, (5, 2)), (0, (1, 1.2)), (0, (5, 1.5, 1, 1.5)))
INK = "#333333"
FAINT = "#8c8c8c"
TIGHT: dict[str, Any] = {"bbox_inches": "tight", "pad_inches": 0.15}
"""Cropping of saved figures."""
LABEL_GAP = 0.052
"""Minimum distance between two labels beside the axes, as a fraction of the axes' height."""


End = tuple[Line2D, float, float]
"""A drawn line, and the step and return at which to label it."""


@dataclass(frozen=True)
class Curve:
    """The evaluations of one learner or group over a run."""

    label: str
    """Name beside the line."""
    steps: np.ndarray
    """Environment steps of its group, all peers together, at each evaluation, increasing, ``(E,)``."""
    returns: np.ndarray
    """Undiscounted returns of the episodes of each evaluation, ``(E, n_episodes)``."""

    def __post_init__(self) -> None:
        """Refuse arrays whose shapes do not fit.

        Raises:
            PolicyKDError: there is no evaluation or no episode, or not one step count per evaluation.
        """
        if self.returns.ndim != 2 or self.returns.size == 0 or self.steps.shape != self.returns.shape[:1]:
            raise PolicyKDError(
                f"curve {self.label!r}: needs steps (E,) and returns (E, n_episodes), neither empty; "
                f"has {self.steps.shape} and {self.returns.shape}"
            )


def curve_of(label: str, k: int, steps: Sequence[int], evaluations: Sequence[Evaluation]) -> Curve:
    """The curve of an agent's learner ``k``, from its evaluations and their steps."""
    return Curve(label, np.array(steps), np.stack([evaluation.returns[k] for evaluation in evaluations]))


def learning_curves(
    curves: Sequence[Curve],
    path: str | os.PathLike[str],
    *,
    title: str,
    threshold: float | None = None,
    mark: str = "threshold",
    xlabel: str = "environment steps of a group",
    over: str = "episodes of an evaluation",
) -> Path:
    """Draw the mean return of every curve, with a band of one standard error to each side, as a PNG.

    A curve that ends in NaN or infinity is labelled as such where it was last finite.

    Args:
        curves: at least one; each is labelled at its right end. Lines differ in colour, and from the eighth
            on also in dashes.
        path: the PNG file. Its folder is created if missing, and an existing file is replaced atomically.
        title: what the picture shows, above it.
        threshold: a return to mark by a dashed line, such as the one that counts as solved.
        mark: what that return is, beside its line.
        xlabel: what ``Curve.steps`` count.
        over: what the columns of ``Curve.returns`` are, which the means are taken over.

    Returns:
        ``path``.

    Raises:
        PolicyKDError: no curves.
    """
    if not curves:
        raise PolicyKDError("learning curves: nothing to draw")
    figure = Figure(figsize=(8.0, 4.8), dpi=160, facecolor="white")
    axes = figure.add_axes((0.095, 0.16, 0.70, 0.745))
    ends = [_draw(axes, curve, index) for index, curve in enumerate(curves)]
    if threshold is not None:
        line = axes.axhline(threshold, color=FAINT, linewidth=1.1, linestyle=(0, (6, 4)), zorder=1)
        line.set_label(f"{mark} {threshold:g}")
        ends.append((line, max(step for _, step, _ in ends), threshold))
    _decorate(axes, curves, xlabel)
    _label_ends(axes, ends)
    figure.text(0.095, 0.945, title, fontsize=13, fontweight="bold", color=INK, va="center", parse_math=False)
    figure.text(0.095, 0.025, _caption(curves, over), fontsize=8, color=FAINT, va="bottom")
    return save_figure(figure, Path(path), **TIGHT)


def _draw(axes: Axes, curve: Curve, index: int) -> End:
    with np.errstate(invalid="ignore"):  # learners that diverged
        mean, error = curve.returns.mean(axis=1), _standard_error(curve.returns)
    (line,) = axes.plot(curve.steps, mean, **_line_style(index), linewidth=1.9, label=curve.label)
    axes.fill_between(curve.steps, mean - error, mean + error, color=line.get_color(), alpha=0.18, linewidth=0)
    finite = np.flatnonzero(np.isfinite(mean))
    if len(finite) == 1:
        line.set(marker="o", markersize=5, clip_on=False)
    if not np.isfinite(mean[-1]):
        line.set_label(f"{curve.label}: ends in {mean[-1]}")
    last = finite[-1] if len(finite) else -1
    return line, float(curve.steps[last]), float(mean[last])


def _line_style(index: int) -> dict[str, Any]:
    """Colour of a line, and from the eighth on also its dashes."""
    style = LINE_STYLES[index // len(COLOURS) % len(LINE_STYLES)]
    return {"color": COLOURS[index % len(COLOURS)], "linestyle": style}


def _standard_error(returns: np.ndarray) -> np.ndarray:
    """Standard error of the mean of each row; 0 for a single episode."""
    episodes = returns.shape[1]
    if episodes == 1:
        return np.zeros(len(returns))
    return returns.std(axis=1, ddof=1) / np.sqrt(episodes)


def _caption(curves: Sequence[Curve], over: str) -> str:
    counts = sorted({curve.returns.shape[1] for curve in curves})
    if counts == [1]:
        return "Line: the return of one episode per evaluation."
    several = str(counts[0]) if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    return f"Line: mean over the {several} {over}. Band: one standard error to each side."


def _decorate(axes: Axes, curves: Sequence[Curve], xlabel: str) -> None:
    """Axis labels and limits, round ticks, and a faint grid instead of a frame."""
    axes.set_xlabel(xlabel, color=INK)
    axes.set_ylabel("return per evaluation episode", color=INK)
    last = max(float(curve.steps[-1]) for curve in curves)
    axes.set_xlim(0, last or 1)
    axes.margins(y=0.06)
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    axes.xaxis.set_major_locator(MaxNLocator(nbins=6, steps=[1, 2, 2.5, 5, 10], integer=True))
    axes.yaxis.set_major_locator(MaxNLocator(nbins=7))
    axes.yaxis.get_offset_text().set_horizontalalignment("right")  # left of the title, not below its letters
    axes.grid(axis="y", color="#e6e6e6", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color("#b0b0b0")
    axes.tick_params(colors=INK, length=0, labelsize=9)


def _label_ends(axes: Axes, ends: Sequence[End]) -> None:
    """Label each line right of the axes, joined to its end, such that no two labels overlap."""
    low, high = axes.get_ylim()
    nowhere = low + LABEL_GAP * (high - low)
    ends = [(line, step, height if np.isfinite(height) else nowhere) for line, step, height in ends]
    places = _spread([(height - low) / (high - low) for _, _, height in ends])
    for (line, step, height), place in zip(ends, places, strict=True):
        axes.annotate(
            str(line.get_label()),
            xy=(step, height),
            xytext=(1.04, place),
            textcoords="axes fraction",
            color=line.get_color(),
            fontsize=9,
            va="center",
            parse_math=False,
            arrowprops={
                "arrowstyle": "-",
                "color": line.get_color(),
                "linewidth": 0.9,
                "linestyle": ":",
                "shrinkA": 2,
                "shrinkB": 2,
                "relpos": (0, 0.5),
            },
        )


def _spread(heights: Sequence[float]) -> list[float]:
    """Positions of labels as close as possible to the desired heights, in their order and a gap apart.

    Neighbours that are too close form a block, centred on the mean of its members' desired heights.
    """
    blocks: list[list[int]] = []
    for index in np.argsort(heights, kind="stable"):
        blocks.append([int(index)])
        while len(blocks) > 1 and _bottom(blocks[-1], heights) - _top(blocks[-2], heights) < LABEL_GAP:
            blocks[-2:] = [blocks[-2] + blocks[-1]]
    places = [0.0] * len(heights)
    for block in blocks:
        for rank, index in enumerate(block):
            places[index] = _bottom(block, heights) + rank * LABEL_GAP
    return places


def _bottom(block: Sequence[int], heights: Sequence[float]) -> float:
    return sum(heights[index] for index in block) / len(block) - (len(block) - 1) * LABEL_GAP / 2


def _top(block: Sequence[int], heights: Sequence[float]) -> float:
    return _bottom(block, heights) + (len(block) - 1) * LABEL_GAP


def save_figure(figure: Figure, path: Path, **options: Any) -> Path:
    """Write the PNG atomically, with options of ``savefig``; its folder is created if missing."""
    path, content = file_path("picture", path, "picture.png"), io.BytesIO()
    figure.savefig(content, format="png", **options)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(path, content.getvalue())
    return path


def comparison_grid(
    panels: Sequence[tuple[str, Mapping[str, tuple[np.ndarray, np.ndarray]]]],
    path: str | os.PathLike[str],
    *,
    title: str,
    columns: int = 4,
) -> Path:
    """Draw small panels of learning curves: the median over seeds, with a band from the lower to the upper quartile.

    Args:
        panels: a name and, for each side, steps ``(E,)`` and scores ``(E, seeds)``.
        path: the PNG file, replaced whole.
        title: what the picture shows, above it.
        columns: panels in a row; a single panel is larger.
    """
    rows = -(-len(panels) // columns)
    width, height = (7.2, 3.5) if columns == 1 else (3.1, 2.5)
    size = width * columns, height * rows + 0.9
    figure = Figure(figsize=size, dpi=130, facecolor="white", layout="constrained")
    figure.suptitle(title, fontsize=13, fontweight="bold", color=INK, parse_math=False)
    grid = np.atleast_1d(figure.subplots(rows, columns, squeeze=False)).ravel()
    for axes, (name, sides) in zip(grid, panels, strict=False):
        for index, (label, (steps, scores)) in enumerate(sides.items()):
            low, middle, high = np.percentile(scores, (25, 50, 75), axis=1)
            (line,) = axes.plot(steps, middle, **_line_style(index), linewidth=1.8, label=label)
            if len(steps) == 1:
                line.set(marker="o", markersize=5)
            axes.fill_between(steps, low, high, color=line.get_color(), alpha=0.18, linewidth=0)
        axes.set_title(name, fontsize=9, color=INK, parse_math=False)
        axes.xaxis.set_major_formatter(EngFormatter(sep=""))
        axes.tick_params(labelsize=8)
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="y", color="#e4e4e4", linewidth=0.8)
    for axes in grid[len(panels) :]:
        axes.set_axis_off()
    beside = {"loc": "upper left", "bbox_to_anchor": (1, 1)} if columns == 1 else {}
    grid[0].legend(**beside, frameon=False, fontsize=9)
    figure.supxlabel("environment steps   (line: median over seeds; band: quartiles)", fontsize=8, color=FAINT)
    return save_figure(figure, Path(path), **TIGHT)


def against_size(
    points: Mapping[str, tuple[np.ndarray, np.ndarray]], path: str | os.PathLike[str], *, title: str, unit: str
) -> Path:
    """Plot scores of students against their size: a dot per seed, a line through the means.

    Args:
        points: by a student's name, its parameters and the score of every seed: ``()`` and ``(seeds,)``.
        path: the PNG file, replaced whole.
        title: what the picture shows, above it.
        unit: what the scores are; 1 is the teacher.
    """
    figure = Figure(figsize=(7.2, 4.4), dpi=160, facecolor="white", layout="constrained")
    axes = figure.subplots()
    ordered = sorted(points.items(), key=lambda item: float(item[1][0]))
    sizes, means = [float(size) for _, (size, _) in ordered], [scores.mean() for _, (_, scores) in ordered]
    axes.plot(sizes, means, color=COLOURS[0], linewidth=1.9, zorder=2)
    for _, (size, scores) in ordered:
        axes.scatter(np.full(len(scores), float(size)), scores, s=16, color=COLOURS[1], alpha=0.8, zorder=3)
    axes.axhline(1.0, color=FAINT, linewidth=1.1, linestyle=(0, (6, 4)), zorder=1)
    axes.set_xscale("log")
    axes.set_xticks(sizes, [f"{name}\n{float(size):,.0f}" for name, (size, _) in ordered])
    axes.minorticks_off()
    axes.set_xlabel(
        "hidden layers and parameters of the student   (dot: one seed; line: mean over seeds)", color=INK, fontsize=9
    )
    axes.set_ylabel(unit, color=INK)
    axes.set_title(title, fontsize=12, fontweight="bold", color=INK, loc="left")
    axes.grid(axis="y", color="#e6e6e6", linewidth=0.8)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(colors=INK, length=0, labelsize=9)
    return save_figure(figure, Path(path), **TIGHT)
