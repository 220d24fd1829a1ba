"""Deterministic evaluation of all learners at once, apart from training."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import gymnasium as gym
import numpy as np

from policykd.core.seeding import env_seed
from policykd.tasks.broken import broken


class Evaluation(NamedTuple):
    """Undiscounted returns and lengths of the episodes of every learner, each ``(K, n_episodes)``."""

    returns: np.ndarray
    lengths: np.ndarray


class Evaluator:
    """Environments of its own, one per learner, whose episodes start from seeds of their own.

    The start of episode e of evaluation n depends on (seed, n, e) only: nothing is carried from one evaluation to the
    next, training's generators are never touched, and the peers of a group meet the same starts.

    Args:
        factory: makes one environment.
        learners: number of learners K.
        to_env: maps actions ``(K, A)`` in [-1, 1] to units of the environment.
    """

    def __init__(
        self, factory: Callable[[], gym.Env], learners: int, to_env: Callable[[np.ndarray], np.ndarray]
    ) -> None:
        self.envs = [factory() for _ in range(learners)]
        self.to_env = to_env

    def run(
        self, act: Callable[[np.ndarray], np.ndarray], n_episodes: int, seeds: list[int], number: int
    ) -> Evaluation:
        """Play ``n_episodes`` per learner with ``act``: observations ``(K, O)`` to actions ``(K, A)`` in [-1, 1].

        Args:
            act: the learners' deterministic policies.
            n_episodes: episodes per learner.
            seeds: the seed of every learner's group ``(K,)``.
            number: which evaluation this is; another number gives other starts.
        """
        starts: list[list[int]] = [
            [env_seed(seed, 0, "evaluation", number, e) for e in range(n_episodes)] for seed in seeds
        ]
        learners = len(self.envs)
        returns, lengths = np.zeros((learners, n_episodes)), np.zeros((learners, n_episodes), np.int64)
        episode = np.zeros(learners, np.int64)
        observations = np.stack([self._reset(k, starts[k][0]) for k in range(learners)])
        while (playing := np.flatnonzero(episode < n_episodes)).size:
            actions = self.to_env(act(observations))
            for k in playing:
                try:
                    observation, reward, terminated, truncated, _ = self.envs[k].step(actions[k])
                except Exception as error:
                    raise broken(error, self.envs[k], int(k), "of evaluation")  # noqa: B904  (has its cause)
                returns[k, episode[k]] += float(reward)
                lengths[k, episode[k]] += 1
                observations[k] = observation
                if terminated or truncated:
                    episode[k] += 1
                    if episode[k] < n_episodes:
                        observations[k] = self._reset(int(k), starts[k][episode[k]])
        return Evaluation(returns, lengths)

    def close(self) -> None:
        """Close the environments."""
        for env in self.envs:
            env.close()

    def _reset(self, k: int, seed: int) -> np.ndarray:
        try:
            observation, _ = self.envs[k].reset(seed=seed)
        except Exception as error:
            raise broken(error, self.envs[k], k, "of evaluation")  # noqa: B904
        return observation.astype(np.float32)
