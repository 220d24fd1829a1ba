"""Returns of a teacher on its task, measured before distillation."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass

import gymnasium as gym
import numpy as np

from policykd.core.errors import plural
from policykd.core.seeding import env_seed, stream
from policykd.tasks import Evaluator
from policykd.tasks.spaces import EnvFactory, action_scale, check_spaces, find_task

STANDARD_ERRORS = 2.0
"""Standard errors by which a mean must exceed another to count as better: about 97.5 % one-sided."""


@dataclass(frozen=True)
class TeacherScore:
    """Returns of a teacher, and of uniformly random actions from the same initial states."""

    source: str
    env_id: str
    returns: np.ndarray
    """Undiscounted return of every episode ``(n,)``, without noise."""
    random_returns: np.ndarray
    """Returns of random actions ``(n,)``."""

    @property
    def mean(self) -> float:
        """The teacher's mean return."""
        return float(self.returns.mean())

    @property
    def random_mean(self) -> float:
        """The mean return of random actions."""
        return float(self.random_returns.mean())

    @property
    def better_than_random(self) -> bool:
        """Whether the teacher's mean exceeds random's by over two standard errors of their difference (Welch).

        With a single episode any excess counts. NaN is never better.
        """
        n = len(self.returns)
        spread = math.sqrt((self.returns.var(ddof=1) + self.random_returns.var(ddof=1)) / n) if n > 1 else 0.0
        return self.mean - self.random_mean > STANDARD_ERRORS * spread

    def ratio(self, returns: np.ndarray) -> np.ndarray:
        """Returns divided by the teacher's mean; both above random actions' mean if the teacher's is not positive."""
        chance = self.random_mean if self.mean <= 0 else 0.0
        return (returns - chance) / (self.mean - chance)

    def __str__(self) -> str:
        """One line for logs."""
        teacher = f"return {self.mean:,.1f} +/- {self.returns.std():,.1f}, {plural(len(self.returns), 'episode')}"
        noise = f"random actions {self.random_mean:,.1f} +/- {self.random_returns.std():,.1f}"
        return f"teacher {self.source} on {self.env_id}: {teacher} ({noise})"


def score(
    source: str,
    env: str | gym.Env | EnvFactory,
    act: Callable[[np.ndarray], np.ndarray],
    n_episodes: int,
    seed: int,
) -> TeacherScore:
    """Play ``n_episodes`` with ``act``, observations ``(n, O)`` to learners' actions ``(n, A)``, and as many at random.

    All episodes are played at once, each on its own environment.
    """
    task = find_task(env)
    starts = [env_seed(seed, episode, "evaluation") for episode in range(n_episodes)]
    generator = stream(seed, 0, "exploration")
    with task.make() as probe:
        scale = action_scale(check_spaces(probe)[1])
    with closing(Evaluator(task.make, n_episodes, scale.to_env)) as evaluator:
        returns = evaluator.run(act, 1, starts, 0).returns
        noise = evaluator.run(lambda o: generator.uniform(-1, 1, (len(o), scale.size)), 1, starts, 0).returns
    return TeacherScore(source, task.env_id, returns[:, 0], noise[:, 0])
