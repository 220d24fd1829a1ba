"""What learners on policy remember: the steps of their current policies, until these have learnt from them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from policykd.core.memory import require_memory


class Rollout:
    """T steps of all learners in N environments each; every tensor is ``(K, T, N, ...)`` in float32.

    Args:
        steps: number of steps T of a rollout.
        envs: environments N of a learner.
        observation_size: length O of an observation.
        action_size: length A of an action.
        learners: number of learners K.
        label_size: length W of a teacher's packed answer; 0 where there is no teacher.
        device: where they live.
        state_size: length H of a learner's state; 0 where there is none.
    """

    def __init__(
        self,
        steps: int,
        envs: int,
        observation_size: int,
        action_size: int,
        learners: int,
        label_size: int = 0,
        device: torch.device | str = "cpu",
        state_size: int = 0,
    ) -> None:
        width = 2 * observation_size + action_size + 2 + sum(size + 1 for size in (label_size, state_size) if size)
        asked = f"rollouts of {learners} learners x {envs} environments x {steps:,} steps"
        require_memory(4 * learners * envs * steps * width, asked, "n_steps", device)

        def empty(*shape: int) -> Tensor:
            return torch.zeros(learners, steps, envs, *shape, device=device)

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
        if state_size:
            self.starts = empty()
            """1 where an episode starts, and the learner's state is emptied before the step."""
            self.hidden = empty(state_size)
            """The learner's state before the step, as it was when it acted."""
        self.steps, self.position = steps, 0

    @property
    def full(self) -> bool:
        """Whether the rollout has all of its T steps."""
        return self.position == self.steps

    def add(self, observations: Tensor, inputs: Tensor, actions: Tensor, rewards: Tensor, dones: Tensor) -> None:
        """Append a step: twice ``(K, N, O)``, ``(K, N, A)`` and twice ``(K, N)``."""
        t = self.position
        self.observations[:, t], self.inputs[:, t], self.actions[:, t] = observations, inputs, actions
        self.rewards[:, t], self.dones[:, t] = rewards, dones
        self.position += 1

    def cut(self) -> None:
        """Start the rollout over, because the environments were reset and returns must not cross episodes."""
        self.position = 0

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
        states = self.observations.view(len(self.observations), -1, self.observations.shape[-1])
        count = states.shape[1] if recent is None else min(recent, states.shape[1])
        draws = np.stack([generator.integers(count, size=batch_size) for generator in generators])
        whose, which = torch.from_numpy(source).unsqueeze(1), torch.from_numpy(states.shape[1] - 1 - draws)
        return states[whose.to(states.device), which.to(states.device)]

    def state(self) -> dict[str, Any]:
        """The steps so far, for a checkpoint."""
        tensors = {name: value for name, value in vars(self).items() if isinstance(value, Tensor)}
        return {"position": self.position, **{name: value[:, : self.position] for name, value in tensors.items()}}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a saved state."""
        self.position = state["position"]
        for name, value in state.items():
            if name != "position":
                getattr(self, name)[:, : self.position] = torch.as_tensor(value)


def gae(rewards: Tensor, values: Tensor, dones: Tensor, last_values: Tensor, gamma: float, gae_lambda: float) -> Tensor:
    """Generalised advantage estimation (GAE) ``(K, T, N)`` (Schulman et al. 2016, equation 16).

    Args:
        rewards: ``(K, T, N)``; where a time limit truncated the episode, plus the discounted value of its last state.
        values: V of the state before each step, ``(K, T, N)``.
        dones: 1 where the episode ended after the step, ``(K, T, N)``: no bootstrapping there.
        last_values: V of the state after the last step, ``(K, N)``.
        gamma: discount factor.
        gae_lambda: 1 gives Monte Carlo advantages, 0 one-step TD errors.
    """
    continues = 1 - dones
    next_values = torch.cat((values[:, 1:], last_values.unsqueeze(1)), dim=1)
    # The recursion is T small steps, which cost numpy less than torch.
    errors = (rewards + gamma * next_values * continues - values).cpu().numpy()
    decay = (gamma * gae_lambda * continues).cpu().numpy()
    advantages, advantage = np.empty_like(errors), np.zeros_like(errors[:, 0])
    for t in reversed(range(errors.shape[1])):
        advantage = errors[:, t] + decay[:, t] * advantage
        advantages[:, t] = advantage
    return torch.from_numpy(advantages).to(rewards.device)
