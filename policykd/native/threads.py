"""How many threads the kernels use: rows are independent, and are shared out over them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

from policykd.native import kernels


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def threads(number: int | Literal["auto"] = "auto", learners: int | None = None) -> Iterator[int]:
    """Let the kernels split the learner axis over threads, in this process, as long as the context lasts.

    Numbers do not depend on it: a row is computed by one thread, in the same order. Calls too small to gain stay on
    one thread, whatever is allowed here. Torch itself must compute on one thread (``usable``).

    Args:
        number: most threads; "auto" is a thread per core, but no more than learners.
        learners: number of learners K, if known.

    Returns:
        the most threads that calls may use; 1 where there are no kernels.

    Raises:
        ValueError: fewer than one thread.
    """
    if number == "auto":
        number = min(cores(), learners or cores())
    if not isinstance(number, int) or number < 1:
        raise ValueError(f'threads={number!r} must be a positive number or "auto"')
    if not kernels.available():
        yield 1
        return
    before = kernels.set_threads(number)
    try:
        yield number
    finally:
        kernels.set_threads(before)
