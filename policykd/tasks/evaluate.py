"""Deterministic evaluation of all learners at once, separate from training."""

from __future__ import annotations

import functools
import logging
import math
from collections.abc import Callable
from typing import NamedTuple

import gymnasium as gym
import numpy as np

from policykd.core.seeding import env_seed
from policykd.tasks.contract import TaskError, layers, task_name

log = logging.getLogger("policykd")
EPISODE_LIMIT = 10_000
"""Step limit of evaluation episodes, for tasks without a time limit."""


class Evaluation(NamedTuple):
    """Undiscounted returns and lengths of the episodes of every learner, each ``(K, n_episodes)``."""

    returns: np.ndarray
    lengths: np.ndarray

    @property
    def means(self) -> np.ndarray:
        """Mean return of every learner ``(K,)``; -inf, never the best, for the NaN of one that has diverged."""
        means = self.returns.mean(1)
        return np.where(np.isnan(means), -np.inf, means)


class Evaluator:
    """Evaluates every learner on its own environment, with other seeds than training.

    The initial state of episode e of evaluation n depends on (seed, n, e) only: nothing carries over from one
    evaluation to the next, training's generators are never used, and the peers of a group get the same initial states.

    Args:
        factory: makes one environment.
        learners: number of learners K.
        to_env: maps actions ``(K, A)`` in [-1, 1] to units of the environment.
    """

    def __init__(
        self, factory: Callable[[], gym.Env], learners: int, to_env: Callable[[np.ndarray], np.ndarray]
    ) -> None:
        self.envs = [factory() for _ in range(learners)]
        self.starts = np.ones(learners, bool)
        """Whether each learner's observation is the first of an episode, whenever ``act`` is called, ``(K,)``."""
        self.to_env = to_env
        self.name = task_name(self.envs[0])
        self.limit = episode_limit(self.envs[0])

    def run(
        self, act: Callable[[np.ndarray], np.ndarray], n_episodes: int, seeds: list[int], number: int
    ) -> Evaluation:
        """Play ``n_episodes`` per learner with ``act``: observations ``(K, O)`` to actions ``(K, A)`` in [-1, 1].

        Args:
            act: the learners' deterministic policies.
            n_episodes: episodes per learner.
            seeds: the seed of every learner's group ``(K,)``.
            number: index of this evaluation; it determines the initial states.

        Returns:
            returns and lengths; returns are NaN for a learner whose actions are not finite.

        Raises:
            TaskError: the task raised or violated the interface, or returned values that are not finite.
        """
        starts: list[list[int]] = [
            [env_seed(seed, 0, "evaluation", number, e) for e in range(n_episodes)] for seed in seeds
        ]
        learners = len(self.envs)
        returns, lengths = np.zeros((learners, n_episodes)), np.zeros((learners, n_episodes), np.int64)
        episode = np.zeros(learners, np.int64)
        observations = np.stack([self._reset(k, starts[k][0]) for k in range(learners)])
        self.starts[:] = True
        while (playing := np.flatnonzero(episode < n_episodes)).size:
            outputs = act(observations)
            actions = self.to_env(outputs)  # a discrete action even if outputs are NaN
            self.starts[:] = False
            diverged = ~np.isfinite(outputs).reshape(learners, -1).all(1)
            for k in playing:
                if diverged[k]:  # the other learners are evaluated all the same
                    returns[k, episode[k] :], episode[k] = np.nan, n_episodes
                    continue
                observations[k], reward, ended = self._step(int(k), actions[k], int(lengths[k, episode[k]]) + 1)
                returns[k, episode[k]] += reward
                lengths[k, episode[k]] += 1
                if ended or too_long(self.name, lengths[k, episode[k]], self.limit):
                    episode[k] += 1
                    if episode[k] < n_episodes:
                        observations[k], self.starts[k] = self._reset(int(k), starts[k][episode[k]]), True
        return Evaluation(returns, lengths)

    def close(self) -> None:
        """Close the environments."""
        for env in self.envs:
            env.close()

    def _reset(self, k: int, seed: int) -> np.ndarray:
        try:
            observation = self.envs[k].reset(seed=seed)[0].astype(np.float32)
            refuse_unless_finite(self.name, "reset", observation)
        except TaskError as error:
            raise TaskError(f"{error} (in the evaluation of learner {k})") from error.__cause__
        return observation

    def _step(self, k: int, action: np.ndarray, number: int) -> tuple[np.ndarray, float, bool]:
        """Learner k's next observation ``(O,)``, its reward, and whether the episode ended with its step ``number``."""
        try:
            observation, reward, terminated, truncated, _ = self.envs[k].step(action)
            observation, reward = observation.astype(np.float32), float(reward)
            refuse_unless_finite(self.name, f"step {number} of an episode", observation, reward)
        except TaskError as error:
            raise TaskError(f"{error} (in the evaluation of learner {k})") from error.__cause__
        return observation, reward, terminated or truncated


def refuse_unless_finite(name: str, when: str, observation: np.ndarray, reward: float = 0.0) -> None:
    """Raise before a task's NaN or infinity counts as a return or reaches a policy.

    Args:
        name: name of the task.
        when: the call that returned the values, for the error.
        observation: as policies read it, float32.
        reward: of the step that led to it.

    Raises:
        TaskError: one of them is not finite.
    """
    if not (math.isfinite(reward) and np.isfinite(observation).all()):
        what = "an observation" if math.isfinite(reward) else "a reward"
        raise TaskError(f"environment: {name} returned {what} that is not finite at {when}")


def episode_limit(env: gym.Env) -> int | None:
    """Steps after which an episode is cut off; None if the task has its own time limit."""
    timed = any(isinstance(layer, gym.wrappers.TimeLimit) for layer in layers(env))
    return None if timed else EPISODE_LIMIT


def too_long(name: str, steps: int, limit: int | None) -> bool:
    """Whether an endless episode is to be cut off after this many steps; warns once per task."""
    if limit is None or steps < limit:
        return False
    _warn_endless(name, limit)
    return True


@functools.cache
def _warn_endless(name: str, limit: int) -> None:
    """Warn once per task that its episodes do not end."""
    log.warning(
        "environment: an episode of %s did not end within %s steps and is cut off there: give the task a "
        "TimeLimit, or n_eval_episodes=0 to train without evaluation (a teacher plays teacher_episodes, at least 1)",
        name,
        f"{limit:,}",
    )
