"""Batches drawn from a replay by one call of C, with the numbers that numpy's generators would give."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from torch import Tensor

from policykd.native import kernels


class Draw(NamedTuple):
    """A batch of all learners: how many transitions, and from where."""

    samples: int
    """Transitions B per learner."""
    first: np.ndarray
    """The ring from which learner k draws, ``(K,)`` in int64."""
    rings: int
    """How many rings from there on it draws from, all alike."""
    recent: int
    """Only the most recent so many transitions of a ring."""


class _Draw(ctypes.Structure):
    """``Draw`` of replay.c."""

    _fields_ = (
        *((name, ctypes.c_ssize_t) for name in ("samples", "recent", "rings")),
        ("first", ctypes.c_void_p),
    )


def gathers(storage: Tensor) -> bool:
    """Whether ``Gather`` takes transitions from this storage."""
    return storage.is_cpu and storage.is_contiguous() and kernels.available()


class Gather:
    """Batches that are drawn together, one after the other, each learner's by its own generator.

    The generators' states stay numpy's: they go on from wherever Python left them.

    Args:
        storage: rings of transitions ``(rings of all, capacity, width)``, float32, where ``gathers(storage)``.
        generators: one per learner.
        draws: the batches.

    Raises:
        ValueError: rings that are not there.
    """

    def __init__(self, storage: Tensor, generators: Sequence[np.random.Generator], draws: Sequence[Draw]) -> None:
        learners, (whole, self.capacity, width) = len(generators), storage.shape
        for draw in draws:
            if draw.first.shape != (learners,) or draw.first.min() < 0 or draw.first.max() + draw.rings > whole:
                raise ValueError(f"cannot draw from {draw.rings} rings each from {draw.first} on: there are {whole}")
            if draw.recent < 1:
                raise ValueError(f"cannot draw from the latest {draw.recent} transitions")
        interfaces = [generator.bit_generator.ctypes for generator in generators]
        pointers = ctypes.c_void_p * learners
        uniform = pointers(*(ctypes.cast(each.next_double, ctypes.c_void_p).value for each in interfaces))
        state = pointers(*(each.state_address for each in interfaces))
        firsts = [np.ascontiguousarray(draw.first, np.int64) for draw in draws]
        asked = (_Draw * len(draws))(
            *(_Draw(d.samples, d.recent, d.rings, f.ctypes.data) for d, f in zip(draws, firsts, strict=True))
        )
        self.storage, self.shapes = storage, [(learners, draw.samples, width) for draw in draws]
        self.lengths = [learners * draw.samples * width for draw in draws]
        self.before = learners, width, storage.data_ptr(), self.capacity
        self.after = len(draws), asked, uniform, state
        self.alive = list(generators), firsts  # as long as their addresses are used

    def __call__(self, size: int, position: int) -> list[Tensor]:
        """Draw.

        Args:
            size: transitions in every ring.
            position: where the next one will go.

        Returns:
            ``(K, B, width)`` per batch.

        Raises:
            ValueError: the rings are empty, or hold less.
        """
        if not 0 < size <= self.capacity:
            raise ValueError(f"cannot draw from {size} of {self.capacity} transitions")
        out = self.storage.new_empty(sum(self.lengths))
        kernels.library().gather(*self.before, size, position, *self.after, out.data_ptr())
        return [part.view(shape) for part, shape in zip(out.split_with_sizes(self.lengths), self.shapes, strict=True)]
