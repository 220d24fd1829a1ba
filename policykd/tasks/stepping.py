"""Steps environments in threads if that is faster: MuJoCo releases Python's GIL."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import gymnasium as gym

INDEPENDENT = ("gymnasium.envs.mujoco.", "policykd_envs.")
"""Modules of tasks whose copies share no mutable state, and which mostly compute in MuJoCo."""
TRIALS = 50
"""Steps after which the faster way is chosen."""


def independent(env: gym.Env) -> bool:
    """Whether copies of a task may step in parallel: known only for Gymnasium's and this project's."""
    return type(env.unwrapped).__module__.startswith(INDEPENDENT)


class Threaded:
    """Steps E environments in sequence or in threads, whichever took less time in the first steps.

    Results do not depend on it.

    Args:
        count: number of environments E.
        threads: number of threads, at least two.
    """

    def __init__(self, count: int, threads: int) -> None:
        self.pool = ThreadPoolExecutor(threads - 1, "environments")
        self.parts = [range(first, count, threads) for first in range(threads)]
        self.whole = range(count)
        self.seconds: tuple[list[float], list[float]] = [], []
        self.pay: bool | None = None
        """Whether threads are faster; None while both ways are tried."""

    def run(self, step: Callable[[range], None]) -> None:
        """Call ``step`` with the indices of all environments, at once or in parts.

        Raises:
            Exception: the exception of ``step``; if several parts raised, the first one's.
        """
        if self.pay is not None:
            self._run(step, self.pay)
            return
        shared = len(self.seconds[0]) > len(self.seconds[1])
        started = time.perf_counter()
        self._run(step, shared)
        self.seconds[shared].append(time.perf_counter() - started)
        if len(self.seconds[1]) == TRIALS:
            self.pay = statistics.median(self.seconds[1]) < statistics.median(self.seconds[0])

    def _run(self, step: Callable[[range], None], shared: bool) -> None:
        if not shared:
            step(self.whole)
            return
        others = [self.pool.submit(step, part) for part in self.parts[1:]]
        try:
            step(self.parts[0])
        finally:
            errors = [error for other in others if (error := other.exception()) is not None]
        if errors:
            raise errors[0]

    def close(self) -> None:
        """Stop the threads."""
        self.pool.shutdown()
