"""Numbers as they come: NumPy arrays, or tensors that stay on their device; and what scales them."""

from __future__ import annotations

import numpy as np
from torch import Tensor

Array = np.ndarray | Tensor


def as_numpy(array: Array) -> np.ndarray:
    """The same numbers in NumPy; not copied where the processor can read them."""
    return array if isinstance(array, np.ndarray) else array.numpy(force=True)


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
