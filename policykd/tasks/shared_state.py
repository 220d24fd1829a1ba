"""What attributes of a task have in common: one array under two names, or a view into it, is restored as one."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import Any

import numpy as np
import torch


class Shared:
    """What several attributes hold, so that they hold the same again: containers, and arrays with views into them.

    Views that are together less than their array, such as rows of a data set, are no reason to save all of it.

    Args:
        values: all attributes.
    """

    def __init__(self, values: Iterable[Any]) -> None:
        self._met: dict[int, list[Any]] = {}  # by id: the whole, how often it was met, and bytes seen of it
        for value in values:
            self._meet(value)
        several = (
            key for key, (whole, times, seen) in self._met.items() if times > 1 and seen >= getattr(whole, "nbytes", 0)
        )
        self._numbers = {key: number for number, key in enumerate(several)}
        self.begun: set[int] = set()
        self.written: set[int] = set()
        """Numbers whose values are being written, and were."""

    def _meet(self, value: Any) -> None:
        whole = whole_of(value)
        if whole is not None:
            entry = self._met.setdefault(id(whole), [whole, 0, 0])
            entry[1:] = entry[1] + 1, entry[2] + getattr(value, "nbytes", 0)
            if entry[1] > 1:
                return
        if type(value) in (list, tuple, deque, dict):
            for item in value.values() if isinstance(value, dict) else value:
                self._meet(item)

    def number(self, value: Any) -> int | None:
        """The number of what holds a value that others hold, too."""
        return self._numbers.get(id(whole_of(value)))


def whole_of(value: Any) -> Any:
    """The container itself, or the array or tensor into which a value is a view; None for others."""
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
    """Where a view lies in its whole: offset, shape and strides, as NumPy or torch counts them."""
    if isinstance(value, torch.Tensor):
        return [value.storage_offset() - whole.storage_offset(), list(value.shape), list(value.stride())]
    return [value.ctypes.data - whole.ctypes.data, list(value.shape), list(value.strides)]


def viewed(whole: Any, offset: int, shape: list[int], strides: list[int]) -> Any:
    """The view that lies there; beyond the whole's memory it is an error."""
    if isinstance(whole, torch.Tensor):
        return whole.as_strided(shape, strides, offset)
    return np.ndarray(shape, whole.dtype, whole, offset, strides)


def live(value: Any) -> bool:
    """Whether an array shows memory of something else than an array, such as that of ``MjData``."""
    while isinstance(value, np.ndarray) and isinstance(value.base, np.ndarray):
        value = value.base
    return isinstance(value, np.ndarray) and value.base is not None
