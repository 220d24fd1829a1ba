"""Estimates with intervals by rliable's stratified bootstrap (Agarwal et al. 2021), the same at every call."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np

from policykd.core.extras import needs


class Estimate(NamedTuple):
    """A statistic and its 95 % interval, NaN where there is none; numbers, or arrays of one shape."""

    value: Any
    low: Any
    high: Any


def interval(scores: np.ndarray | list[np.ndarray], function: Callable[..., Any], resamples: int) -> Estimate:
    """A statistic with its 95 % percentile interval by rliable's stratified bootstrap, the same at every call.

    A single run, on either side, tells nothing of how runs vary: then there is no interval.

    Args:
        scores: ``(runs, tasks, ...)``, or several of them, to be resampled apart.
        function: from what ``scores`` holds to a number or an array of one axis.
        resamples: bootstrap resamples.
    """
    sides = [scores] if isinstance(scores, np.ndarray) else scores
    if min(map(len, sides)) < 2:
        value = np.asarray(function(*sides), float)
        return Estimate(value if value.ndim else float(value), *[value * np.nan] * 2)
    library = needs("rliable.library", "benchmark")
    data = {"x": scores}
    with _seeded():
        point, limits = library.get_interval_estimates(data, function, reps=resamples)
    low, high = limits["x"]
    value = np.asarray(point["x"])
    return Estimate(value, low, high) if value.ndim else Estimate(float(value), float(low[0]), float(high[0]))


def probability_of_improvement(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """P(X > Y), ties counting half, averaged over tasks, from ``(runs, tasks, ...)`` each.

    It is rliable's metric without its p-value for every task, which takes nearly all of the time.
    """
    above, equal = x[:, None] > y[None], x[:, None] == y[None]
    return (above + 0.5 * equal).mean((0, 1, 2))


def iqm(x: np.ndarray) -> np.ndarray:
    """Interquartile means over the first axis: rliable's number, but for many columns at once."""
    cut = len(x) // 4
    return np.sort(x, axis=0)[cut : len(x) - cut].mean(0)


def median(x: np.ndarray) -> np.ndarray:
    """The median over tasks of their means over runs, from ``(runs, tasks, ...)``."""
    return np.median(x.mean(0), axis=0)


def optimality_gap(x: np.ndarray) -> np.ndarray:
    """How much scores of at most 1 are below 1, on average, from ``(runs, tasks, ...)``."""
    return 1 - np.minimum(x, 1).mean((0, 1))


@contextmanager
def _seeded() -> Iterator[None]:
    """Fix the global generator of NumPy: rliable resamples with it, whatever it is given."""
    before = np.random.get_state()
    np.random.seed(0)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # arch: about the generator that rliable does not use
            yield
    finally:
        np.random.set_state(before)
