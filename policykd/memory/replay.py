"""One replay for all learners: each writes its own row, and reads its own, its peer's or its group's."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from policykd.core.errors import PolicyKDError
from policykd.core.memory import require_memory
from policykd.native import draws
from policykd.native.draws import Draw

Source = Literal["own", "peer", "pooled"]


class Batch(NamedTuple):
    """Transitions of K learners; what is one number per transition is ``(K, B)``."""

    observations: Tensor
    """Raw observations ``(K, B, O)``."""
    actions: Tensor
    """Actions in [-1, 1], ``(K, B, A)``."""
    next_observations: Tensor
    """Raw observations after the action, of the same episode, ``(K, B, O)``."""
    rewards: Tensor
    """Rewards ``(K, B)``."""
    terminated: Tensor
    """1 where the task ended, ``(K, B)``: no value beyond."""
    truncated: Tensor
    """1 where a time limit cut the episode, ``(K, B)``: the value beyond still counts."""


class SharedReplay:
    """A ring of the last ``capacity`` transitions of every learner, in one preallocated tensor.

    A transition is one row of float32 (observation, action, next observation, reward, terminated, truncated), so that
    sampling is one gather. Learners step together: all rings have the same length and position.

    Args:
        capacity: transitions kept of each learner.
        observation_size: length O of an observation.
        action_size: length A of an action.
        learners: number of learners K.
        peers: learners per group; learners of one group are neighbours.
        device: where the transitions live.

    Raises:
        PolicyKDError: the machine has less memory than the replay needs.
    """

    def __init__(
        self,
        capacity: int,
        observation_size: int,
        action_size: int,
        learners: int = 1,
        peers: int = 1,
        device: torch.device | str = "cpu",
    ) -> None:
        self.capacity, self.peers = capacity, peers
        self.sections = [observation_size, action_size, observation_size, 3]
        shape = (learners, capacity, sum(self.sections))
        self.nbytes = 4 * math.prod(shape)
        self.device = torch.device(device)
        require_memory(self.nbytes, f"{learners} learners x {capacity:,} transitions", "buffer_size", device)
        # NumPy's zeros take no memory before they are written: an agent read only to act needs none for its replay.
        self.storage = torch.from_numpy(np.zeros(shape, np.float32)).to(self.device)
        self.size = 0
        self.position = 0
        self._row = np.empty((learners, shape[2]), np.float32)
        self._learner = np.arange(learners)
        self._first_of_group = self._learner // peers * peers

    @property
    def observations(self) -> Tensor:
        """The observations stored so far, ``(K, size, O)``, oldest not necessarily first."""
        return self.storage[:, : self.size, : self.sections[0]]

    def add(
        self,
        observations: np.ndarray,
        actions: np.ndarray,
        next_observations: np.ndarray,
        rewards: np.ndarray,
        terminated: np.ndarray,
        truncated: np.ndarray,
    ) -> None:
        """Append one transition of every learner: ``(K, O)``, ``(K, A)``, ``(K, O)`` and three times ``(K,)``."""
        ends = (rewards[:, None], terminated[:, None], truncated[:, None])
        np.concatenate((observations, actions, next_observations, *ends), axis=1, out=self._row)
        self.storage[:, self.position] = torch.from_numpy(self._row)
        self.position = (self.position + 1) % self.capacity
        self.size = min(self.size + 1, self.capacity)

    def sample(
        self,
        batch_size: int,
        generators: Sequence[np.random.Generator],
        source: Source = "own",
        *,
        peer_of: np.ndarray | None = None,
        recent: int | None = None,
    ) -> Batch:
        """Draw transitions with replacement, each learner by its own generator; once (else see ``sampler``).

        Args:
            batch_size: transitions B per learner.
            generators: one per learner.
            source: a learner's own transitions, its peer's, or those of its whole group pooled.
            peer_of: the peer of every learner ``(K,)``, for source "peer".
            recent: draw from the most recent so many transitions only; None is all.
        """
        return self.sampler(generators, self.draw(batch_size, source, peer_of=peer_of, recent=recent))()[0]

    def draw(
        self,
        batch_size: int,
        source: Source = "own",
        *,
        peer_of: np.ndarray | None = None,
        recent: int | None = None,
    ) -> Draw:
        """What ``sampler`` shall draw; arguments as ``sample``'s."""
        first = {"own": self._learner, "peer": peer_of, "pooled": self._first_of_group}[source]
        assert first is not None
        return Draw(
            batch_size, first, self.peers if source == "pooled" else 1, self.capacity if recent is None else recent
        )

    def sampler(self, generators: Sequence[np.random.Generator], *asked: Draw) -> Callable[[], list[Batch]]:
        """A function that draws these batches in turn, in one call, whenever it is called.

        Args:
            generators: one per learner.
            asked: what ``draw`` returned.

        Raises:
            ValueError: a batch from rings that are not there; when called, from empty ones.
        """
        gather: Callable[[int, int], list[Tensor]]
        if draws.gathers(self.storage):
            gather = draws.Gather(self.storage, generators, asked)
        else:
            gather = partial(self._gather, generators, asked)

        def sample() -> list[Batch]:
            batches = []
            for rows in gather(self.size, self.position):
                *vectors, ends = rows.split_with_sizes(self.sections, dim=-1)
                batches.append(Batch(*vectors, *ends.unbind(-1)))
            return batches

        return sample

    def _gather(
        self, generators: Sequence[np.random.Generator], asked: Sequence[Draw], size: int, position: int
    ) -> list[Tensor]:
        """Transitions ``(K, B, width)`` of every draw, as the kernel gathers them."""
        return [self._gather_one(generators, draw, min(draw.recent, size)) for draw in asked]

    def _gather_one(self, generators: Sequence[np.random.Generator], draw: Draw, count: int) -> Tensor:
        uniform = np.empty((len(self._row), draw.samples))
        for row, generator in zip(uniform, generators, strict=True):
            generator.random(out=row)
        drawn = (uniform * (count * draw.rings)).astype(np.int64)
        ring = draw.first[:, None] + drawn // count
        indices = torch.from_numpy(ring * self.capacity + (self.position - 1 - drawn % count) % self.size)
        rows = self.storage.view(-1, self.storage.shape[2]).index_select(0, indices.view(-1).to(self.device))
        return rows.view(*indices.shape, -1)

    def state(self) -> dict[str, Any]:
        """The transitions so far, for a checkpoint."""
        return {"storage": self.storage[:, : self.size], "position": self.position}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a saved state."""
        storage, position = state["storage"], state["position"]
        if not 0 <= position < self.capacity:
            raise PolicyKDError(f"replay: position {position!r} lies outside its {self.capacity:,} transitions")
        self.size, self.position = storage.shape[1], position
        self.storage[:, : self.size] = storage.to(self.device)
