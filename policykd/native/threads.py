"""Number of threads of the kernels, which split independent rows among them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import torch

from policykd.native import kernels

Threads = int | Literal["auto"]
VARIABLE = "POLICYKD_THREADS"
"""Environment variable that sets the number for "auto"."""


def cores() -> int:
    """Number of cores available to this process."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def count(number: Threads, learners: int | None = None) -> int:
    """Resolve a number of threads.

    "auto" is torch's number of threads, at most one per core, so that ``OMP_NUM_THREADS`` and
    ``torch.set_num_threads`` apply here too; or ``POLICYKD_THREADS``. It is never more than the number of learners.

    Raises:
        ValueError: the number is below 1.
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
    """Let the kernels split the learner axis over threads, in this process and within the context.

    Results do not depend on it: each row is computed by one thread, in the same order. Calls too small to gain from
    threads use one. Torch itself must use one thread (``usable``).

    Args:
        number: maximum number of threads; "auto" as in ``count``.
        learners: number of learners K, if known.

    Returns:
        The maximum number of threads; 1 without kernels.

    Raises:
        ValueError: the number is below 1.
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
