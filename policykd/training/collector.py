"""Steps the training environments of all learners, counts steps and episodes, and checks for NaN and infinity."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from policykd.core.arrays import Array, as_numpy
from policykd.core.errors import PolicyKDError
from policykd.tasks.batched import BatchedEnvs
from policykd.tasks.contract import TaskError
from policykd.tasks.vector import LearnerEnvs, Step
from policykd.training.progress import Progress

__all__ = ["Collector", "Step"]


class Collector:
    """Steps the environments and keeps count of it.

    Args:
        env_id: the task, for errors.
        n_envs: environments N of each learner.
        run: how far the run has come.
    """

    envs: LearnerEnvs | BatchedEnvs
    observations: Array
    """The latest observations ``(E, O)``."""
    starts: np.ndarray
    """Whether they are the first of an episode ``(E,)``."""

    def __init__(self, env_id: str, n_envs: int, run: Progress) -> None:
        self.env_id, self.n_envs, self.run = env_id, n_envs, run
        self.actor_in: Callable[[int], int] = lambda e: e // n_envs
        """The learner that acts in environment e."""
        self.dealt = False
        """Whether that may be another than the one whose environment it is."""

    def attach(self, envs: LearnerEnvs | BatchedEnvs, observations: Array, starts: np.ndarray) -> None:
        """Take the environments, as they are after a reset or a restored checkpoint."""
        self.envs, self.observations, self.starts = envs, observations, starts
        if self.dealt:
            envs.credit(self.actor_in)

    def set_actors(self, actor_in: Callable[[int], int]) -> None:
        """From now on ``actor_in`` says who acts in an environment, and whose its episodes are."""
        self.actor_in, self.dealt = actor_in, True

    def step(self, actions: Array, *, scaled: bool = True) -> Step:
        """Step every environment, count the step and the episodes that ended with it.

        Args:
            actions: ``(E, A)``.
            scaled: whether they are in [-1, 1]; else in the task's units, and clipped to its bounds.

        Raises:
            PolicyKDError: the task raised or broke Gymnasium's interface, or a number is not finite; where that began
                with actions that are not, the line says that training diverged.
        """
        run = self.run
        try:
            step = self.envs.advance(actions, scaled)
        except TaskError as error:
            raise self._failed(str(error), error.env or 0, actions) from error.__cause__
        for e in step.dones.nonzero()[0]:
            run.episode_ended(self.actor_in(int(e)), step.infos[e]["episode"])
        seen = (
            (step.next_observations,)
            if step.next_observations is step.observations
            else (step.next_observations, step.observations)
        )
        if not _finite(step.rewards, *seen):
            self._refuse(actions, step.rewards, step.next_observations, step.observations)
        self.observations, self.starts = step.observations, step.dones
        run.num_timesteps += run.steps_at_once
        return step

    def check(self) -> None:
        """Refuse first observations that are not finite."""
        if not _finite(self.observations):
            self._refuse(None, np.zeros(len(self.observations)), self.observations)

    def _refuse(self, actions: Array | None, given: Array, *shown: Array) -> None:
        """Stop before a NaN or infinity is remembered or reaches a policy, and say whose it was."""
        rewards, observations = as_numpy(given), [as_numpy(array) for array in shown]
        bad = ~np.isfinite(rewards) | ~np.logical_and.reduce([np.isfinite(o).all(1) for o in observations])
        e = int(np.flatnonzero(bad)[0])
        what = "an observation" if np.isfinite(rewards[e]) else "a reward"
        raise self._failed(f"environment: {self.env_id} returned {what} that is not finite", e, actions)

    def _failed(self, text: str, e: int, actions: Array | None) -> PolicyKDError:
        """What environment ``e`` did wrong, with when and for whom; or who sent it actions that are no numbers."""
        advice = ""
        if actions is not None:
            sent = as_numpy(actions).reshape(len(actions), -1)
            if len(diverged := np.flatnonzero(~np.isfinite(sent).all(1))):
                e, text = int(diverged[0]), "learn: actions are not finite"
                advice = ": training diverged; take an earlier checkpoint, or train again with a lower learning rate"
        run, k = self.run, self.actor_in(e)
        seed, peer = run.learners[k]
        step = run.num_timesteps // run.steps_at_once + 1
        return PolicyKDError(f"{text} at step {step} of learner {k} (seed {seed}, peer {peer}){advice}")


def _finite(*arrays: Array) -> bool:
    for array in arrays:
        finite = np.isfinite(array) if isinstance(array, np.ndarray) else torch.isfinite(array)
        if not finite.all():
            return False
    return True
