"""Shared attributes of a task: an array held under two names, or with views, remains shared when restored."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import Any

import numpy as np
import torch


class Shared:
    """Objects held by several attributes, so that they remain shared: containers, and arrays with views into them.

    An array is not saved whole if its views cover less than it, such as some rows of a data set.

    Args:
        values: all attributes.
    """

    def __init__(self, values: Iterable[Any]) -> None:
        self._met: dict[int, list[Any]] = {}  # by id: the whole, number of references, and bytes that these cover
        for value in values:
            self._visit(value)
        several = (
            key for key, (whole, times, seen) in self._met.items() if times > 1 and seen >= getattr(whole, "nbytes", 0)
        )
        self._numbers = {key: number for number, key in enumerate(several)}
        self.begun: set[int] = set()
        self.written: set[int] = set()
        """Numbers whose values are being written or have been."""

    def _visit(self, value: Any) -> None:
        whole = base_of(value)
        if whole is not None:
            entry = self._met.setdefault(id(whole), [whole, 0, 0])
            entry[1:] = entry[1] + 1, entry[2] + getattr(value, "nbytes", 0)
            if entry[1] > 1:
                return
        if type(value) in (list, tuple, deque, dict):
            for item in value.values() if isinstance(value, dict) else value:
                self._visit(item)

    def number(self, value: Any) -> int | None:
        """The number of the shared object that holds a value; None if it is not shared."""
        return self._numbers.get(id(base_of(value)))


def base_of(value: Any) -> Any:
    """The container itself, or the array or tensor that a value is a view of; None for others."""
    if type(value) in (list, deque, dict):
        return value
    whole = value
    if isinstance(value, torch.Tensor):
        whole = value if value._base is None else value._base
        same = whole.is_contiguous() and whole.dtype == value.dtype
        return whole if same else None
    if not isinstance(value, np.ndarray):
        return None
    while isinstance(whole.base, np.ndarray):
        whole = whole.base
    return whole if whole.base is None and whole.flags.c_contiguous and whole.dtype == value.dtype else None


def view_in(value: Any, whole: Any) -> list[Any]:
    """Position of a view in its whole: offset, shape and strides, in NumPy's or torch's units."""
    if isinstance(value, torch.Tensor):
        return [value.storage_offset() - whole.storage_offset(), list(value.shape), list(value.stride())]
    return [value.ctypes.data - whole.ctypes.data, list(value.shape), list(value.strides)]


def viewed(whole: Any, offset: int, shape: list[int], strides: list[int]) -> Any:
    """The view at this position; an error if it exceeds the whole's memory."""
    if isinstance(whole, torch.Tensor):
        return whole.as_strided(shape, strides, offset)
    return np.ndarray(shape, whole.dtype, whole, offset, strides)


def views_foreign_memory(value: Any) -> bool:
    """Whether an array is a view of memory that is not an array's, such as that of ``MjData``."""
    while isinstance(value, np.ndarray) and isinstance(value.base, np.ndarray):
        value = value.base
    return isinstance(value, np.ndarray) and value.base is not None
