"""States labelled by the teacher: DAgger's data set, one ring buffer per learner."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from policykd.core.memory import require_memory


class LabelledStates:
    """The last ``capacity`` states of every learner, each labelled once by the teacher.

    Args:
        capacity: number of states kept per learner.
        observation_size: length O of an observation.
        label_size: length W of a label.
        learners: number of learners K.
        device: device of the states.
    """

    def __init__(
        self,
        capacity: int,
        observation_size: int,
        label_size: int,
        learners: int,
        device: torch.device | str = "cpu",
    ) -> None:
        self.capacity, self.sections = capacity, [observation_size, label_size]
        shape = (learners, capacity, observation_size + label_size)
        require_memory(4 * math.prod(shape), f"{learners} students x {capacity:,} states", "dataset_size", device)
        self.storage = torch.from_numpy(np.zeros(shape, np.float32)).to(device)  # takes no memory before it is filled
        self.size, self.position = 0, 0
        self.total = 0
        """States added so far, per learner."""

    def add(self, observations: Tensor, labels: Tensor) -> None:
        """Append N states of every learner: raw observations ``(K, N, O)`` and labels ``(K, N, W)``."""
        count = observations.shape[1]
        places = (self.position + torch.arange(count, device=self.storage.device)) % self.capacity
        self.storage[:, places] = torch.cat((observations, labels), dim=-1).to(self.storage)
        self.position = (self.position + count) % self.capacity
        self.size = min(self.size + count, self.capacity)
        self.total += count

    def sample(
        self, batch_size: int, generators: Sequence[np.random.Generator], recent: int | None = None
    ) -> tuple[Tensor, Tensor]:
        """Draw states with replacement, each learner from its own by its own generator.

        Args:
            batch_size: states B per learner.
            generators: one per learner.
            recent: draw from this many most recent states only; None uses all.

        Returns:
            Observations ``(K, B, O)`` and labels ``(K, B, W)``.
        """
        count = self.size if recent is None else min(recent, self.size)
        draws = np.stack([generator.integers(count, size=batch_size) for generator in generators])
        rows = (self.position - 1 - draws) % self.size + np.arange(len(draws))[:, None] * self.capacity
        flat = self.storage.view(-1, self.storage.shape[2])
        chosen = flat.index_select(0, torch.from_numpy(rows).to(flat.device).view(-1))
        observations, labels = chosen.view(*draws.shape, -1).split(self.sections, dim=-1)
        return observations, labels

    def state(self) -> dict[str, Any]:
        """The states so far, for a checkpoint."""
        return {"storage": self.storage[:, : self.size], "position": self.position, "total": self.total}

    def restore(self, state: dict[str, Any]) -> None:
        """Restore a saved state."""
        self.size, self.position, self.total = state["storage"].shape[1], state["position"], state["total"]
        self.storage[:, : self.size] = state["storage"].to(self.storage.device)
