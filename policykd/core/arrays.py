"""Numbers as they come: NumPy arrays, or tensors that stay on their device; and what scales them."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import Tensor

from policykd.core.errors import PolicyKDError

Array = np.ndarray | Tensor


def as_numpy(array: Array) -> np.ndarray:
    """The same numbers in NumPy; not copied where the processor can read them."""
    return array if isinstance(array, np.ndarray) else array.numpy(force=True)


def where_episodes_start(episode_start: Any, count: int) -> np.ndarray:
    """SB3's ``episode_start`` at ``count`` observations, one flag for each or one for all, as bools; None: nowhere.

    Raises:
        PolicyKDError: there are other numbers of flags and observations.
    """
    starts = np.zeros(1, bool) if episode_start is None else np.asarray(episode_start, bool).reshape(-1)
    if len(starts) not in (1, count):
        raise PolicyKDError(f"predict: episode_start has {len(starts)} flags, and there are {count} observations")
    return np.full(count, starts)


def mean_and_scale(values: np.ndarray, axis: int | None = 0) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation over an axis (None: all), in float64; 1 for the deviation of what does not vary.

    A column of one value may have a deviation of 1e-17 by rounding: constant is what varies no more than that, by
    scikit-learn's rule (``StandardScaler``).
    """
    count = values.size if axis is None else values.shape[axis]
    mean, variance = values.mean(axis, np.float64), values.var(axis, np.float64)
    epsilon = np.finfo(np.float64).eps
    constant = variance <= count * epsilon * variance + (count * mean * epsilon) ** 2
    return mean, np.where(constant, 1.0, np.sqrt(variance))
