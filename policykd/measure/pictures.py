"""Plots of a fidelity report, and of measurements over seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from policykd.measure.plots import COLOURS, FAINT, INK, save_figure

BINS = 10


class Series(NamedTuple):
    """One quantity measured over seeds."""

    x: Sequence[float]
    """Positions on the x-axis ``(E,)``."""
    values: np.ndarray
    """``(E, seeds)``."""


class Panel(NamedTuple):
    """One panel of a figure."""

    title: str
    xlabel: str
    ylabel: str
    series: Mapping[str, Series]
    """By label."""
    ticks: Mapping[int, str] | None = None
    """Category names by position; points of categories are not joined by lines."""


def seed_panels(panels: Sequence[Panel], path: Path, title: str, caption: str = "") -> Path:
    """Draw panels side by side: the mean of every series, and a small point for every seed."""
    width = max(4.2, *(0.8 * len(panel.ticks or ()) for panel in panels))
    figure = Figure(figsize=(width * len(panels), 4.0), dpi=150, facecolor="white", layout="constrained")
    figure.suptitle(title, fontsize=13, fontweight="bold", color=INK)
    shared = len({panel.ylabel for panel in panels}) == 1
    same = len({tuple(panel.series) for panel in panels}) == 1
    for axes, panel in zip(figure.subplots(1, len(panels), squeeze=False, sharey=shared)[0], panels, strict=True):
        for index, (label, series) in enumerate(panel.series.items()):
            _draw(axes, label, series, COLOURS[index % len(COLOURS)], index, len(panel.series), panel.ticks is not None)
        if panel.ticks is not None:
            axes.set_xticks(list(panel.ticks), list(panel.ticks.values()), rotation=30, ha="right")
        _decorate(axes, panel.title, panel.xlabel, panel.ylabel)
        if len(panel.series) > 1 and not same:
            axes.legend(frameon=False, fontsize=8)
    if same and len(panels[0].series) > 1:
        axes.legend(loc="upper left", bbox_to_anchor=(1, 1), frameon=False, fontsize=8)
    if any(series.values.shape[1] > 1 for panel in panels for series in panel.series.values()):
        caption += "   (large: mean; small: each seed)"
    figure.supxlabel(caption, fontsize=8, color=FAINT)
    return save_figure(figure, path)


def _draw(axes: Axes, label: str, series: Series, colour: str, index: int, count: int, alone: bool) -> None:
    x = np.asarray(series.x, float)
    if alone:  # several series at one position are drawn side by side
        x = x + 0.12 * (index - (count - 1) / 2)
    axes.plot(x, series.values.mean(1), "o" if alone else "-o", color=colour, markersize=6, linewidth=1.8, label=label)
    axes.plot(x, series.values, "o", color=colour, markersize=2.5, alpha=0.5)


def fidelity_picture(
    measures: Mapping[str, Mapping[str, Mapping[str, float]]],
    units: Mapping[str, str],
    path: Path,
    reliability: Mapping[str, tuple[np.ndarray, np.ndarray]] | None = None,
) -> Path:
    """Draw one bar chart per measure, and a reliability diagram.

    Args:
        measures: values by split, network and measure; the teacher itself is drawn unless it is the reference.
        units: the measures to draw, and the unit of each; measures that are NaN everywhere are left out.
        path: the PNG file, replaced whole.
        reliability: confidence and correctness, each ``(N,)``, by network; None draws no diagram.
    """
    whose = list(next(iter(measures.values())))
    values = {name: [[by[who][name] for by in measures.values()] for who in whose] for name in units}
    drawn = [name for name in units if not np.isnan(values[name]).all()]
    count = len(drawn) + (reliability is not None)
    width = max(3.75, 1.1 * len(measures))
    figure = Figure(figsize=(width * count, 4.0), dpi=150, facecolor="white", layout="constrained")
    others = " and ".join(who for who in whose if who != "teacher")
    title = "peers beside one another" if "peers" in whose else f"{others} beside the teacher"
    figure.suptitle(f"Fidelity: {title}", fontweight="bold", color=INK)
    panels = figure.subplots(1, count, squeeze=False)[0]
    for axes, name in zip(panels, drawn, strict=False):
        shown = [who for who in whose if who != "teacher" or name == "accuracy"]
        for index, who in enumerate(shown):
            x = np.arange(len(measures)) + 0.25 * (index - (len(shown) - 1) / 2)
            bars = axes.bar(x, values[name][whose.index(who)], 0.22, color=COLOURS[whose.index(who)], label=who)
            axes.bar_label(bars, fmt="%.3f", fontsize=7, color=INK)
        axes.set_xticks(range(len(measures)), [split.replace("_", " ") for split in measures])
        _decorate(
            axes,
            {"kl": f"KL({'peer || own' if 'peers' in whose else 'teacher || network'})"}.get(name, name),
            "",
            units[name],
        )
    if reliability is not None:
        _reliability(panels[-1], {who: (*points, COLOURS[whose.index(who)]) for who, points in reliability.items()})
    named = {who: bars for axes in panels for bars, who in zip(*axes.get_legend_handles_labels(), strict=True)}
    panels[-1].legend(named.values(), named.keys(), loc="upper left", bbox_to_anchor=(1, 1), frameon=False, fontsize=8)
    return save_figure(figure, path)


def _reliability(axes: Axes, networks: Mapping[str, tuple[np.ndarray, np.ndarray, str]]) -> None:
    """Accuracy against confidence, in equal bins; the dashed line is perfect calibration."""
    axes.plot((0, 1), (0, 1), color=FAINT, linewidth=1, linestyle=(0, (4, 3)))
    for who, (confidence, right, colour) in networks.items():
        place = np.minimum((confidence * BINS).astype(int), BINS - 1)
        inside = np.unique(place)
        points = np.array([(confidence[place == b].mean(), right[place == b].mean()) for b in inside]).T
        if len(inside):
            axes.plot(*points, "-o", markersize=4, color=colour, label=who)
    _decorate(axes, "reliability", "confidence", "accuracy")


def _decorate(axes: Axes, title: str, xlabel: str, ylabel: str) -> None:
    axes.set_title(title, fontsize=10, color=INK)
    axes.set_xlabel(xlabel, fontsize=9, color=INK)
    axes.set_ylabel(ylabel, fontsize=9, color=INK)
    axes.tick_params(labelsize=8, colors=INK)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="#e4e4e4", linewidth=0.8)
    axes.set_axisbelow(True)
