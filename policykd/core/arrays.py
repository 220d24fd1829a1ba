"""Conversion and scaling of arrays and tensors."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import Tensor

from policykd.core.errors import PolicyKDError

Array = np.ndarray | Tensor


def as_numpy(array: Array) -> np.ndarray:
    """Convert to NumPy, without a copy if the data are on the CPU."""
    return array if isinstance(array, np.ndarray) else array.numpy(force=True)


def where_episodes_start(episode_start: Any, count: int) -> np.ndarray:
    """Convert SB3's ``episode_start``, one flag or one per observation, to ``count`` bools; None is all False.

    Raises:
        PolicyKDError: the numbers of flags and observations differ.
    """
    starts = np.zeros(1, bool) if episode_start is None else np.asarray(episode_start, bool).reshape(-1)
    if len(starts) not in (1, count):
        raise PolicyKDError(f"predict: episode_start has {len(starts)} flags for {count} observations")
    return np.full(count, starts)


def mean_and_scale(values: np.ndarray, axis: int | None = 0) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation over an axis (None: all) in float64; constants get a standard deviation of 1.

    Rounding may give a constant column a deviation of 1e-17: columns within rounding error count as constant, by the
    rule of scikit-learn's ``StandardScaler``.
    """
    count = values.size if axis is None else values.shape[axis]
    mean, variance = values.mean(axis, np.float64), values.var(axis, np.float64)
    epsilon = np.finfo(np.float64).eps
    constant = variance <= count * epsilon * variance + (count * mean * epsilon) ** 2
    return mean, np.where(constant, 1.0, np.sqrt(variance))
