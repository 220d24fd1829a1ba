"""Steps of episodes with the teacher's answers, in their order: what students with a state learn from."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from policykd.core.memory import require_memory


class Windows(NamedTuple):
    """B windows of L steps of every learner; a window may cross episodes."""

    observations: Tensor
    """Raw observations ``(K, L, B, O)``."""
    answers: Tensor
    """The teacher's packed answers ``(K, L, B, W)``."""
    starts: Tensor
    """``(K, L, B)``: 1 where an episode starts; -1 where the step does not follow the one before it, in mid-episode."""
    state: Tensor
    """The student's state before the first step, as it was when it acted, ``(K, B, H)``."""


class LabelledSequences:
    """The last ``capacity`` steps of every learner in N environments, each with the teacher's answer.

    Args:
        capacity: steps kept of each learner, in all of its environments together.
        envs: environments N of a learner.
        observation_size: length O of an observation.
        label_size: length W of an answer.
        state_size: length H of a student's state.
        learners: number of learners K.
        device: where they live.
    """

    def __init__(
        self,
        capacity: int,
        envs: int,
        observation_size: int,
        label_size: int,
        state_size: int,
        learners: int,
        device: torch.device | str = "cpu",
    ) -> None:
        self.sections, self.envs, self.steps = [observation_size, label_size, 1, state_size], envs, capacity // envs
        shape = (learners, self.steps, envs, sum(self.sections))
        require_memory(4 * math.prod(shape), f"{learners} students x {capacity:,} steps", "dataset_size", device)
        self.storage = torch.from_numpy(np.zeros(shape, np.float32)).to(device)  # takes no memory before it is filled
        self.filled, self.position, self.total = 0, 0, 0
        self.apart = False
        """Whether the next step does not follow the latest one."""

    @property
    def capacity(self) -> int:
        """Steps that it holds of each learner when it is full."""
        return self.steps * self.envs

    @property
    def size(self) -> int:
        """Steps that it holds of each learner."""
        return self.filled * self.envs

    def add(self, observations: Tensor, labels: Tensor, starts: Tensor, state: Tensor) -> None:
        """Append a step in all environments: ``(K, N, O)``, ``(K, N, W)``, ``(K, N)`` and the state before it."""
        if self.apart:
            starts, self.apart = starts.where(starts > 0, -1.0), False
        parts = observations, labels, starts.unsqueeze(-1), state
        self.storage[:, self.position] = torch.cat([part.to(self.storage) for part in parts], dim=-1)
        self.position = (self.position + 1) % self.steps
        self.filled = min(self.filled + 1, self.steps)
        self.total += self.envs

    def cut(self) -> None:
        """Note that the next step will not follow the latest one."""
        self.apart = self.filled > 0

    def recompute_states(self, next_state: Callable[[Tensor, Tensor, Tensor], Tensor]) -> None:
        """Recompute the stored states with the student as it is now.

        Args:
            next_state: called for every step from the oldest on, with its observations ``(K, N, O)``, starts ``(K, N)``
                and the state before it ``(K, N, H)``; returns the state after it.
        """
        state: Tensor | None = None
        for place in range(self.position - self.filled, self.position):
            step = self.storage[:, place % self.steps]
            observations, _, starts, before = step.split(self.sections, dim=-1)
            if state is not None:
                before.copy_(state)
            state = next_state(observations, starts.squeeze(-1), before)

    def sample(
        self, windows: int, length: int, generators: Sequence[np.random.Generator], recent: int | None = None
    ) -> Windows:
        """Draw windows with replacement, each learner from its own steps by its own generator.

        Args:
            windows: windows B per learner.
            length: steps L of each; all there are, where there are fewer.
            generators: one per learner.
            recent: draw from this many most recent steps only; None is all.
        """
        count = self.filled if recent is None else min(self.filled, max(1, recent // self.envs))
        length = min(length, count)
        device, first = self.storage.device, self.position - count
        begins = np.stack([generator.integers(count - length + 1, size=windows) for generator in generators])
        envs = np.stack([generator.integers(self.envs, size=windows) for generator in generators])
        places = (first + begins[:, None] + np.arange(length)[:, None]) % self.steps
        rows = torch.from_numpy(places).to(device), torch.from_numpy(envs[:, None]).to(device)
        learners = torch.arange(len(begins), device=device)[:, None, None]
        steps, states = self.storage.split((sum(self.sections[:-1]), self.sections[-1]), dim=-1)
        observations, answers, starts = steps[learners, rows[0], rows[1]].split(self.sections[:-1], dim=-1)
        state = states[learners[:, 0], rows[0][:, 0], rows[1][:, 0]]
        return Windows(observations, answers, starts.squeeze(-1), state)

    def state(self) -> dict[str, Any]:
        """The steps so far, for a checkpoint."""
        places = {"position": self.position, "total": self.total, "apart": self.apart}
        return {"storage": self.storage[:, : self.filled], **places}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a saved state."""
        self.filled, self.position, self.total = state["storage"].shape[1], state["position"], state["total"]
        self.apart = bool(state.get("apart", False))
        self.storage[:, : self.filled] = state["storage"].to(self.storage.device)
