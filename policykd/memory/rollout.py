"""What learners on policy remember: the steps of their current policies, until these have learnt from them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor


class Rollout:
    """T steps of all learners in N environments each; every array is ``(K, T, N, ...)`` in float32.

    Args:
        steps: number of steps T of a rollout.
        envs: environments N of a learner.
        observation_size: length O of an observation.
        action_size: length A of an action.
        learners: number of learners K.
        label_size: length W of a teacher's packed answer; 0 where there is no teacher.
    """

    def __init__(
        self, steps: int, envs: int, observation_size: int, action_size: int, learners: int, label_size: int = 0
    ) -> None:
        def empty(*shape: int) -> np.ndarray:
            return np.zeros((learners, steps, envs, *shape), np.float32)

        self.observations = empty(observation_size)
        """Raw observations, which peers read."""
        self.inputs = empty(observation_size)
        """The same as the learner's networks saw them at that time."""
        self.actions = empty(action_size)
        self.rewards = empty()
        """Rewards as the value network counts them; where a time limit cut an episode, with the value beyond."""
        self.dones = empty()
        """1 where the episode ended after the step."""
        if label_size:
            self.labels = empty(label_size)
            """The teacher's answers at the observations."""
            self.next_values = empty()
            """The teacher's value of where the step led; 0 where the task ended."""
        self.steps, self.position = steps, 0

    @property
    def full(self) -> bool:
        """Whether it is time to learn."""
        return self.position == self.steps

    def add(
        self, observations: np.ndarray, inputs: np.ndarray, actions: np.ndarray, rewards: np.ndarray, dones: np.ndarray
    ) -> None:
        """Append a step: twice ``(K, N, O)``, ``(K, N, A)`` and twice ``(K, N)``."""
        t = self.position
        self.observations[:, t], self.inputs[:, t], self.actions[:, t] = observations, inputs, actions
        self.rewards[:, t], self.dones[:, t] = rewards, dones
        self.position += 1

    def sample_states(
        self,
        batch_size: int,
        generators: Sequence[np.random.Generator],
        source: np.ndarray,
        recent: int | None,
    ) -> Tensor:
        """Raw observations ``(K, B, O)`` drawn from the latest of a full rollout, each learner by its own generator.

        Args:
            batch_size: states B per learner.
            generators: one per learner.
            source: whose states each learner gets, ``(K,)``.
            recent: only the most recent so many; None is the whole rollout.
        """
        states = self.observations.reshape(len(self.observations), -1, self.observations.shape[-1])
        count = states.shape[1] if recent is None else min(recent, states.shape[1])
        draws = np.stack([generator.integers(count, size=batch_size) for generator in generators])
        return torch.from_numpy(states[source[:, None], states.shape[1] - 1 - draws])

    def state(self) -> dict[str, Any]:
        """The steps so far, for a checkpoint."""
        arrays = {name: value for name, value in vars(self).items() if isinstance(value, np.ndarray)}
        return {"position": self.position, **{name: value[:, : self.position] for name, value in arrays.items()}}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a saved state."""
        self.position = state["position"]
        for name, value in state.items():
            if isinstance(value, np.ndarray):
                getattr(self, name)[:, : self.position] = value


def gae(
    rewards: np.ndarray,
    values: np.ndarray,
    dones: np.ndarray,
    last_values: np.ndarray,
    gamma: float,
    gae_lambda: float,
) -> np.ndarray:
    """Generalised advantage estimates ``(K, T, N)`` (Schulman et al. 2016, equation 16).

    Args:
        rewards: ``(K, T, N)``; where a time limit cut an episode, with the discounted value beyond.
        values: V of the state before each step, ``(K, T, N)``.
        dones: 1 where the episode ended after the step, ``(K, T, N)``: nothing beyond counts.
        last_values: V of the state after the last step, ``(K, N)``.
        gamma: discount factor.
        gae_lambda: 1 sums up all that follows, 0 looks one step ahead.
    """
    advantages = np.empty_like(rewards)
    goes_on = 1 - dones
    next_values = np.concatenate((values[:, 1:], last_values[:, None]), axis=1)
    errors = rewards + gamma * next_values * goes_on - values
    decay = gamma * gae_lambda * goes_on
    advantage = np.zeros_like(last_values)
    for t in reversed(range(rewards.shape[1])):
        advantage = errors[:, t] + decay[:, t] * advantage
        advantages[:, t] = advantage
    return advantages
