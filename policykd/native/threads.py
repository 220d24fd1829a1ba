"""How many threads the kernels use: rows are independent, and are shared out over them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import torch

from policykd.native import kernels

Threads = int | Literal["auto"]
VARIABLE = "POLICYKD_THREADS"
"""The variable of the environment that says how many "auto" is."""


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def count(number: Threads, learners: int | None = None) -> int:
    """How many threads ``number`` stands for.

    "auto" is as many as torch has been given, at most a thread per core, so that ``OMP_NUM_THREADS`` and
    ``torch.set_num_threads`` hold here, too; or ``POLICYKD_THREADS``. It is never more than learners.

    Raises:
        ValueError: fewer than one thread.
    """
    if number == "auto":
        asked = os.environ.get(VARIABLE, "")
        most = int(asked) if asked.isdecimal() and int(asked) else min(cores(), torch.get_num_threads())
        return min(most, learners or most)
    if isinstance(number, bool) or not isinstance(number, int) or number < 1:
        raise ValueError(f'threads={number!r} must be a positive number or "auto"')
    return number


@contextmanager
def threads(number: Threads = "auto", learners: int | None = None) -> Iterator[int]:
    """Let the kernels split the learner axis over threads, in this process, as long as the context lasts.

    Numbers do not depend on it: a row is computed by one thread, in the same order. Calls too small to gain stay on
    one thread, whatever is allowed here. Torch itself must compute on one thread (``usable``).

    Args:
        number: most threads; "auto" is what ``count`` says.
        learners: number of learners K, if known.

    Returns:
        the most threads that calls may use; 1 where there are no kernels.

    Raises:
        ValueError: fewer than one thread.
    """
    number = count(number, learners)
    if not kernels.available():
        yield 1
        return
    before = kernels.set_threads(number)
    try:
        yield number
    finally:
        kernels.set_threads(before)
