"""Random draws of K learners, each from its own generator: noise, and replay batches by one call to C."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from policykd.native import kernels


def standard_normal(generators: Sequence[np.random.Generator], *shape: int) -> np.ndarray:
    """Standard normal noise ``(K, *shape)`` in float32, row k from generator k."""
    noise = np.empty((len(generators), *shape), np.float32)
    for row, generator in zip(noise, generators, strict=True):
        generator.standard_normal(dtype=np.float32, out=row)
    return noise


class Streams:
    """NumPy's generators for C, which shares their state with Python.

    Args:
        generators: one per learner.
    """

    def __init__(self, generators: Sequence[np.random.Generator]) -> None:
        self.generators = list(generators)  # keeps them alive while their addresses are used
        interfaces = [generator.bit_generator.ctypes for generator in self.generators]
        pointers = ctypes.c_void_p * len(interfaces)
        self.uniform = pointers(*(ctypes.cast(each.next_double, ctypes.c_void_p).value for each in interfaces))
        self.state = pointers(*(each.state_address for each in interfaces))


def can_gather(storage: Tensor) -> bool:
    """Whether ``gather`` supports this storage."""
    return storage.is_cpu and storage.is_contiguous() and kernels.available()


def gather(
    storage: Tensor,
    size: int,
    position: int,
    batch_size: int,
    streams: Streams,
    first: np.ndarray,
    count: int,
    rings: int = 1,
    out: Tensor | None = None,
) -> Tensor:
    """Draw transitions of all learners, each with its own generator, if ``can_gather(storage)``.

    Args:
        storage: rings of transitions ``(rings of all, capacity, width)``, float32; or float16, where the last six
            places are three numbers in float32.
        size: transitions in every ring.
        position: where the next transition will be written.
        batch_size: transitions B per learner.
        streams: the learners' generators.
        first: the ring from which learner k draws, ``(K,)`` in int64.
        count: draw from this many most recent transitions of a ring.
        rings: draw uniformly from this many rings, starting with ``first``.
        out: result of an earlier call of this size, or its first columns, to overwrite.

    Returns:
        ``(K, B, width)``, float32; or ``out``.

    Raises:
        ValueError: rings or transitions are out of range.
    """
    learners, (whole, capacity, width) = len(streams.generators), storage.shape
    halves = width - 6 if storage.dtype == torch.float16 else 0
    width -= 3 if halves else 0  # width of the result
    if first.shape != (learners,) or not 0 < count <= size <= capacity:
        raise ValueError(
            f"cannot draw from {count} of {size} transitions of {len(first)} rings by {learners} generators"
        )
    if out is None:
        out = torch.empty(learners, batch_size, width, dtype=torch.float32)
    elif out.stride() != (batch_size * width, width, 1) or len(out) != learners:
        raise ValueError(f"cannot draw {learners} x {batch_size} transitions of {width} into {tuple(out.shape)}")
    rows = torch.from_numpy(np.ascontiguousarray(first, np.int64))
    failed = kernels.library().gather(
        *(learners, batch_size, width, halves, storage.data_ptr(), whole, capacity, size, position, count, rings),
        *(rows.data_ptr(), streams.uniform, streams.state, out.data_ptr()),
    )
    if failed:
        raise ValueError(f"cannot draw from {rings} rings each from {first.tolist()} on: there are {whole}")
    return out
