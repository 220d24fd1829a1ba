"""The environments of all learners in training, and what follows every step of them: counts, episodes, checks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from policykd.core.errors import PolicyKDError
from policykd.tasks.contract import TaskError
from policykd.tasks.vector import LearnerEnvs
from policykd.training.progress import Progress


class Step(NamedTuple):
    """One step of all E environments."""

    actions: np.ndarray
    """What was acted, ``(E, A)``."""
    observations: np.ndarray
    """Where the next step begins, ``(E, O)``: of a new episode where one ended."""
    rewards: np.ndarray
    """Rewards ``(E,)``."""
    dones: np.ndarray
    """Whether an episode ended, ``(E,)``."""
    infos: list[dict[str, Any]]
    next_observations: np.ndarray
    """What the actions led to, of the same episode still, ``(E, O)``."""
    truncated: np.ndarray
    """Where a time limit alone ended the episode, ``(E,)``."""


class Collector:
    """Steps the environments and keeps count of it.

    Args:
        env_id: the task, for errors.
        n_envs: environments N of each learner.
        run: how far the run has come.
    """

    envs: LearnerEnvs
    observations: np.ndarray
    """The latest observations ``(E, O)``."""
    starts: np.ndarray
    """Whether they are the first of an episode ``(E,)``."""

    def __init__(self, env_id: str, n_envs: int, run: Progress) -> None:
        self.env_id, self.n_envs, self.run = env_id, n_envs, run
        self.actor_in: Callable[[int], int] = lambda e: e // n_envs
        """The learner that acts in environment e."""

    def attach(self, envs: LearnerEnvs, observations: np.ndarray, starts: np.ndarray) -> None:
        """Take the environments, as they are after a reset or a restored checkpoint."""
        self.envs, self.observations, self.starts = envs, observations, starts

    def step(self, actions: np.ndarray, *, scaled: bool = True) -> Step:
        """Step every environment, count the step and the episodes that ended with it.

        Args:
            actions: ``(E, A)``.
            scaled: whether they are in [-1, 1]; else in the task's units, and clipped to its bounds.

        Raises:
            PolicyKDError: the task raised or broke Gymnasium's interface, or a number is not finite.
        """
        envs, run = self.envs, self.run
        scale = envs.action_scale
        envs.actions = scale.to_env(actions) if scaled else scale.clip(actions)
        try:
            observations, rewards, dones, infos = envs.step_all()
        except TaskError as error:
            raise self._failed(str(error), error.env or 0) from error.__cause__
        truncated, next_observations = np.zeros(len(dones), bool), observations
        if dones.any():
            next_observations = observations.copy()
            for e in np.flatnonzero(dones):
                next_observations[e] = infos[e]["terminal_observation"]
                truncated[e] = infos[e]["TimeLimit.truncated"]
                run.episodes[self.actor_in(int(e))].append(infos[e]["episode"])
                run.n_episodes += 1
        finite = np.isfinite(rewards).all() and np.isfinite(next_observations).all()
        if not finite or (next_observations is not observations and not np.isfinite(observations).all()):
            self._refuse(rewards, next_observations, observations)
        self.observations, self.starts = observations, dones
        run.num_timesteps += run.steps_at_once
        return Step(actions, observations, rewards, dones, infos, next_observations, truncated)

    def check(self) -> None:
        """Refuse first observations that are not finite."""
        if not np.isfinite(self.observations).all():
            self._refuse(np.zeros(len(self.observations)), self.observations)

    def _refuse(self, rewards: np.ndarray, *observations: np.ndarray) -> None:
        """Stop before a NaN or infinity is remembered or reaches a policy, and say whose it was."""
        bad = ~np.isfinite(rewards) | ~np.logical_and.reduce([np.isfinite(o).all(1) for o in observations])
        e = int(np.flatnonzero(bad)[0])
        what = "an observation" if np.isfinite(rewards[e]) else "a reward"
        raise self._failed(f"environment: {self.env_id} returned {what} that is not finite", e)

    def _failed(self, text: str, e: int) -> PolicyKDError:
        """What environment ``e`` did wrong, with when and for whom."""
        run, k = self.run, self.actor_in(e)
        seed, peer = run.learners[k]
        step = run.num_timesteps // run.steps_at_once + 1
        return PolicyKDError(f"{text} at step {step} of learner {k} (seed {seed}, peer {peer})")
