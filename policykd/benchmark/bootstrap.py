"""Estimates with intervals by rliable's stratified bootstrap (Agarwal et al. 2021), with a fixed seed."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np

from policykd.core.extras import import_extra


class Estimate(NamedTuple):
    """A statistic and its 95 % interval, NaN if there is none; numbers, or arrays of one shape."""

    value: Any
    low: Any
    high: Any


def interval(scores: np.ndarray | list[np.ndarray], function: Callable[..., Any], resamples: int) -> Estimate:
    """Estimate a statistic with a 95 % percentile interval by stratified bootstrap, with a fixed seed.

    There is no interval if any side has a single run, which does not show how runs vary.

    Args:
        scores: ``(runs, tasks, ...)``, or several such arrays, which are resampled independently.
        function: maps the arrays in ``scores`` to a number or a one-dimensional array.
        resamples: number of bootstrap resamples.
    """
    sides = [scores] if isinstance(scores, np.ndarray) else scores
    if min(map(len, sides)) < 2:
        value = np.asarray(function(*sides), float)
        return Estimate(value if value.ndim else float(value), *[value * np.nan] * 2)
    library = import_extra("rliable.library", "benchmark")
    data = {"x": scores}
    with _seeded():
        point, limits = library.get_interval_estimates(data, function, reps=resamples)
    low, high = limits["x"]
    value = np.asarray(point["x"])
    return Estimate(value, low, high) if value.ndim else Estimate(float(value), float(low[0]), float(high[0]))


def probability_of_improvement(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """P(X > Y), with ties counting half, averaged over tasks, from two arrays ``(runs, tasks, ...)``.

    This is rliable's metric without the p-value per task, which takes most of its time.
    """
    above, equal = x[:, None] > y[None], x[:, None] == y[None]
    return (above + 0.5 * equal).mean((0, 1, 2))


def iqm(x: np.ndarray) -> np.ndarray:
    """Interquartile means over the first axis, as rliable's but for many columns at once."""
    cut = len(x) // 4
    return np.sort(x, axis=0)[cut : len(x) - cut].mean(0)


def median(x: np.ndarray) -> np.ndarray:
    """Median over tasks of the means over runs, from ``(runs, tasks, ...)``."""
    return np.median(x.mean(0), axis=0)


def optimality_gap(x: np.ndarray) -> np.ndarray:
    """Mean gap between 1 and scores capped at 1, from ``(runs, tasks, ...)``."""
    return 1 - np.minimum(x, 1).mean((0, 1))


@contextmanager
def _seeded() -> Iterator[None]:
    """Seed NumPy's global generator, which rliable resamples with even if it is given another."""
    before = np.random.get_state()
    np.random.seed(0)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # arch: about the generator that rliable does not use
            yield
    finally:
        np.random.set_state(before)
