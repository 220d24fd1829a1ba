"""One replay for all learners: each writes its own row, and reads its own, its peer's or its group's."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cached_property
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from policykd.core.arrays import Array, as_tensor
from policykd.core.errors import PolicyKDError
from policykd.core.memory import require_memory
from policykd.native import draws

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
    discounts: Tensor | None = None
    """What the value beyond counts, ``(K, B)``, where rewards are sums over several steps; None is gamma."""


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
        n_envs: environments N of each learner, whose transitions follow one another in its ring, step by step.

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
        n_envs: int = 1,
    ) -> None:
        self.capacity, self.peers, self.n_envs = capacity, peers, n_envs
        self.sections = [observation_size, action_size, observation_size, 3]
        shape = (learners, capacity, sum(self.sections))
        self.nbytes = 4 * math.prod(shape)
        self.device = torch.device(device)
        require_memory(self.nbytes, f"{learners} learners x {capacity:,} transitions", "buffer_size", device)
        # NumPy's zeros take no memory before they are written: an agent read only to act needs none for its replay.
        self.storage = torch.from_numpy(np.zeros(shape, np.float32)).to(self.device)
        self.size = 0
        self.position = 0
        self._rows = np.empty((learners * n_envs, shape[2]), np.float32)
        self._learner = np.arange(learners)
        self._first_of_group = self._learner // peers * peers
        self._streams: draws.Streams | None = None

    @cached_property
    def _native(self) -> bool:
        return draws.gathers(self.storage)

    @property
    def observations(self) -> Tensor:
        """The observations stored so far, ``(K, size, O)``, oldest not necessarily first."""
        return self.storage[:, : self.size, : self.sections[0]]

    def latest(self, count: int) -> Tensor:
        """The observations of each learner's latest transitions, the latest first, ``(K, at most count, O)``."""
        places = (self.position - 1 - np.arange(min(count, self.size))) % self.size
        return self.observations[:, torch.from_numpy(places).to(self.device)]

    def add(
        self,
        observations: Array,
        actions: Array,
        next_observations: Array,
        rewards: Array,
        terminated: np.ndarray,
        truncated: np.ndarray,
    ) -> None:
        """Append a step of every environment: twice ``(K * N, O)``, ``(K * N, A)`` and three times ``(K * N,)``."""
        columns = (observations, actions, next_observations, rewards[:, None], terminated[:, None], truncated[:, None])
        if isinstance(observations, np.ndarray):
            np.concatenate(columns, axis=1, out=self._rows)
            whole = torch.from_numpy(self._rows)
        else:
            whole = torch.cat([as_tensor(column, self.device).to(torch.float32) for column in columns], dim=1)
        rows, count = whole.view(len(self.storage), self.n_envs, -1), self.n_envs
        fit = min(count, self.capacity - self.position)
        self.storage[:, self.position : self.position + fit] = rows[:, :fit]
        if fit < count:
            self.storage[:, : count - fit] = rows[:, fit:]
        self.position = (self.position + count) % self.capacity
        self.size = min(self.size + count, self.capacity)

    def sample(
        self,
        batch_size: int,
        generators: Sequence[np.random.Generator],
        source: Source = "own",
        *,
        peer_of: np.ndarray | None = None,
        recent: int | None = None,
    ) -> Batch:
        """Draw transitions with replacement, each learner by its own generator.

        Args:
            batch_size: transitions B per learner.
            generators: one per learner.
            source: a learner's own transitions, its peer's, or those of its whole group pooled.
            peer_of: the peer of every learner ``(K,)``, for source "peer".
            recent: draw from the most recent so many transitions only; None is all.
        """
        count = self.size if recent is None else min(recent, self.size)
        if self._native:
            if self._streams is None or self._streams.generators != generators:
                self._streams = draws.Streams(generators)
            first = {"own": self._learner, "peer": peer_of, "pooled": self._first_of_group}[source]
            rings = self.peers if source == "pooled" else 1
            assert first is not None
            rows = draws.gather(self.storage, self.size, self.position, batch_size, self._streams, first, count, rings)
        else:
            rows = self._gather(batch_size, generators, source, peer_of, count)
        *vectors, ends = rows.split_with_sizes(self.sections, dim=-1)
        return Batch(*vectors, *ends.unbind(-1))

    def sample_ahead(
        self,
        batch_size: int,
        generators: Sequence[np.random.Generator],
        source: Source,
        n_steps: float | Tensor,
        gamma: float | Tensor,
    ) -> Batch:
        """As ``sample``, with n-step returns: each transition and those that follow it in its episode, as one.

        Rewards are discounted sums of up to n steps (as SB3's ``n_steps``); fewer where the episode, or what is stored
        of it, ends before. The rest of a transition is that of its last step, and so is what its value beyond counts.

        Args:
            batch_size: transitions B per learner.
            generators: one per learner.
            source: a learner's own transitions, or those of its whole group pooled.
            n_steps: n, a number or one per learner ``(K, 1)``.
            gamma: discount factor, a number or one per learner ``(K, 1)``.
        """
        rows, most = self.storage.view(-1, self.storage.shape[2]), int(torch.as_tensor(n_steps).max())
        last = self._draw(batch_size, generators, source, None, self.size)
        first, sums = rows[last], rows[last][..., -3]
        discounts = torch.ones_like(sums) * gamma
        going = torch.ones_like(last, dtype=torch.bool)
        for ahead in range(1, most):
            ended = rows[last][..., -2:].any(-1)
            place = last % self.capacity
            newest = (self.position - 1 - place) % self.size < self.n_envs
            going = going & ~ended & ~newest & (torch.as_tensor(n_steps) > ahead)
            following = last - place + (place + self.n_envs) % self.size
            last = torch.where(going, following, last)
            sums = sums + going * discounts * rows[last][..., -3]
            discounts = torch.where(going, discounts * gamma, discounts)
        observations, actions = first.split_with_sizes(self.sections, dim=-1)[:2]
        beyond, ends = rows[last].split_with_sizes(self.sections, dim=-1)[2:]
        return Batch(observations, actions, beyond, sums, ends[..., 1], ends[..., 2], discounts)

    def _gather(
        self,
        batch_size: int,
        generators: Sequence[np.random.Generator],
        source: Source,
        peer_of: np.ndarray | None,
        count: int,
    ) -> Tensor:
        """Transitions ``(K, B, width)`` of the last ``count`` of each ring."""
        indices = self._draw(batch_size, generators, source, peer_of, count)
        rows = self.storage.view(-1, self.storage.shape[2]).index_select(0, indices.view(-1))
        return rows.view(*indices.shape, -1)

    def _draw(
        self,
        batch_size: int,
        generators: Sequence[np.random.Generator],
        source: Source,
        peer_of: np.ndarray | None,
        count: int,
    ) -> Tensor:
        """Where transitions of the last ``count`` of each ring stand among those of all rings, ``(K, B)``."""
        uniform = np.empty((len(self.storage), batch_size))
        for row, generator in zip(uniform, generators, strict=True):
            generator.random(out=row)
        if source == "pooled":
            drawn = (uniform * (count * self.peers)).astype(np.int64)
            ring = self._first_of_group[:, None] + drawn // count
            drawn %= count
        else:
            drawn = (uniform * count).astype(np.int64)
            ring = (self._learner if source == "own" else self._learner[peer_of])[:, None]
        return torch.from_numpy(ring * self.capacity + (self.position - 1 - drawn) % self.size).to(self.device)

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
