"""One replay for all learners: each writes its own row, and reads its own, its peer's or its group's."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from policykd.core import draws
from policykd.core.arrays import Array
from policykd.core.errors import PolicyKDError
from policykd.core.memory import require_memory
from policykd.memory.storage import on_disk, packed, unpacked

Source = Literal["own", "peer", "pooled"]


class Batch(NamedTuple):
    """Transitions of K learners; quantities with one number per transition are ``(K, B)``."""

    observations: Tensor
    """Raw observations ``(K, B, O)``."""
    actions: Tensor
    """Actions in [-1, 1], ``(K, B, A)``."""
    next_observations: Tensor
    """Raw next observations of the same episode, ``(K, B, O)``."""
    rewards: Tensor
    """Rewards ``(K, B)``."""
    terminated: Tensor
    """1 where the episode terminated, ``(K, B)``: the target does not bootstrap."""
    truncated: Tensor
    """1 where a time limit truncated the episode, ``(K, B)``: the target still bootstraps."""
    discounts: Tensor | None = None
    """Discount of the bootstrapped value, ``(K, B)``, with n-step returns; None is gamma."""


class SharedReplay:
    """A ring of the last ``capacity`` transitions of every learner, in one preallocated tensor.

    A transition is one row of float32 (observation, action, next observation, reward, terminated, truncated), so that
    sampling is one gather. In float16 the last three stay float32, each in two columns of the row. Learners step
    together, so all rings have the same length and position.

    Args:
        capacity: transitions kept of each learner.
        observation_size: length O of an observation.
        action_size: length A of an action.
        learners: number of learners K.
        peers: learners per group; learners of one group are neighbours.
        device: device of the transitions.
        n_envs: environments N of each learner, whose transitions follow one another in its ring, step by step.
        dtype: in which observations and actions are stored; batches are float32.
        folder: returns the folder on whose disk a file holds the transitions, called at the first one; None keeps them
            in memory.

    Raises:
        PolicyKDError: the machine has too little memory for the replay, or a GPU's replay is to be kept on disk.
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
        dtype: Literal["float32", "float16"] = "float32",
        folder: Callable[[], Path] | None = None,
    ) -> None:
        self.capacity, self.peers, self.n_envs, self.folder = capacity, peers, n_envs, folder
        self.sections = [observation_size, action_size, observation_size, 3]
        self._dtype, width = np.dtype(dtype), sum(self.sections)
        self._shape = learners, capacity, width + 3 * (dtype == "float16")
        self.nbytes = self._dtype.itemsize * math.prod(self._shape)
        self.device = torch.device(device)
        if folder is None:
            require_memory(self.nbytes, f"{learners} learners x {capacity:,} transitions", "buffer_size", device)
        elif self.device.type != "cpu":
            raise PolicyKDError(f"replay: buffer_on_disk needs learners on the CPU, but these are on {device}")
        self.size = 0
        self.position = 0
        self._rows = np.empty((learners * n_envs, width), np.float32)
        self._learner = np.arange(learners)
        self._first_of_group = self._learner // peers * peers
        self._streams: draws.Streams | None = None

    @cached_property
    def storage(self) -> Tensor:
        """Rows ``(K, capacity, width)``, allocated at first use: an agent loaded only to act needs none."""
        if self.folder is not None:
            return torch.from_numpy(on_disk(self._shape, self._dtype, self.folder()))
        if self.device.type == "cpu":  # NumPy's zeros take memory only as they are written
            return torch.from_numpy(np.zeros(self._shape, self._dtype))
        return torch.zeros(self._shape, dtype=getattr(torch, self._dtype.name), device=self.device)

    @cached_property
    def _array(self) -> np.ndarray | None:
        return self.storage.numpy() if self.device.type == "cpu" else None

    @cached_property
    def _native(self) -> bool:
        return draws.can_gather(self.storage)

    @property
    def observations(self) -> Tensor:
        """The observations stored so far, ``(K, size, O)``, oldest not necessarily first."""
        return self.storage[:, : self.size, : self.sections[0]]

    def latest(self, count: int) -> Tensor:
        """The observations of each learner's latest transitions, the latest first, ``(K, at most count, O)``."""
        places = (self.position - 1 - np.arange(min(count, self.size))) % self.size
        return self.observations[:, torch.from_numpy(places).to(self.device)].float()

    def add(
        self,
        observations: Array,
        actions: Array,
        next_observations: Array,
        rewards: Array,
        terminated: np.ndarray,
        truncated: np.ndarray,
    ) -> None:
        """Append a step of every environment: twice ``(K * N, O)``, ``(K * N, A)`` and three times ``(K * N,)``.

        Raises:
            PolicyKDError: float16 cannot hold an observation, or the disk has no room for the replay.
        """
        columns = (observations, actions, next_observations, rewards[:, None], terminated[:, None], truncated[:, None])
        whole: Array
        if isinstance(observations, np.ndarray):
            whole = np.concatenate(columns, axis=1, out=self._rows)
        else:
            parts = [torch.as_tensor(part, dtype=torch.float32, device=self.device) for part in columns]
            whole = torch.cat(parts, dim=1)
        if self._dtype != np.float32:
            whole = packed(torch.as_tensor(whole, device=self.device))
        to: Any = self._array  # where there is one: NumPy writes a few numbers in a third of torch's time
        if to is None:
            to, whole = self.storage, torch.as_tensor(whole, device=self.device)
        elif isinstance(whole, Tensor):
            whole = whole.numpy()
        rows, count = whole.reshape(self._shape[0], self.n_envs, -1), self.n_envs
        fit = min(count, self.capacity - self.position)
        to[:, self.position : self.position + fit] = rows[:, :fit]
        if fit < count:
            to[:, : count - fit] = rows[:, fit:]
        self.position = (self.position + count) % self.capacity
        self.size = min(self.size + count, self.capacity)

    def cut(self) -> None:
        """Mark the latest step of every environment as truncated, because the next one begins a new episode."""
        if not self.size:
            return  # and no storage is made
        places = torch.from_numpy((self.position - 1 - np.arange(min(self.n_envs, self.size))) % self.capacity)
        truncated = torch.ones(1).view(self.storage.dtype)
        self.storage[:, places.to(self.device), -len(truncated) :] = truncated.to(self.device)

    def sample(
        self,
        batch_size: int,
        generators: Sequence[np.random.Generator],
        source: Source = "own",
        *,
        peer_of: np.ndarray | None = None,
        recent: int | None = None,
        into: Batch | None = None,
    ) -> Batch:
        """Draw transitions with replacement, each learner by its own generator.

        Args:
            batch_size: transitions B per learner.
            generators: one per learner.
            source: a learner's own transitions, its peer's, or those of its whole group pooled.
            peer_of: the peer of every learner ``(K,)``, for source "peer".
            recent: draw from the most recent so many transitions only; None is all.
            into: a batch of this size from an earlier call, to be overwritten.
        """
        count = self.size if recent is None else min(recent, self.size)
        if self._native:
            if self._streams is None or self._streams.generators != generators:
                self._streams = draws.Streams(generators)
            first = {"own": self._learner, "peer": peer_of, "pooled": self._first_of_group}[source]
            rings = self.peers if source == "pooled" else 1
            assert first is not None
            drawn = self.storage, self.size, self.position, batch_size, self._streams, first, count, rings
            if into is not None and into.rewards.shape[1] == batch_size:
                draws.gather(*drawn, into.observations)
                return into
            rows = draws.gather(*drawn)
        else:
            rows = self._rows_at(self._draw(batch_size, generators, source, peer_of, count))
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
        """As ``sample``, with n-step returns.

        Rewards are discounted sums of up to n steps (as SB3's ``n_steps``), fewer where the episode, or what is stored
        of it, ends earlier. Next observations, flags and discounts are those of the last step in the sum.

        Args:
            batch_size: transitions B per learner.
            generators: one per learner.
            source: a learner's own transitions, or those of its whole group pooled.
            n_steps: n, a number or one per learner ``(K, 1)``.
            gamma: discount factor, a number or one per learner ``(K, 1)``.
        """
        most, last = int(torch.as_tensor(n_steps).max()), self._draw(batch_size, generators, source, None, self.size)
        first = latest = self._rows_at(last)
        sums = first[..., -3]
        discounts = torch.ones_like(sums) * gamma
        going = torch.ones_like(last, dtype=torch.bool)
        for ahead in range(1, most):
            ended = latest[..., -2:].any(-1)
            place = last % self.capacity
            newest = (self.position - 1 - place) % self.size < self.n_envs
            going = going & ~ended & ~newest & (torch.as_tensor(n_steps) > ahead)
            following = last - place + (place + self.n_envs) % self.size
            last = torch.where(going, following, last)
            latest = self._rows_at(last)
            sums = sums + going * discounts * latest[..., -3]
            discounts = torch.where(going, discounts * gamma, discounts)
        observations, actions = first.split_with_sizes(self.sections, dim=-1)[:2]
        beyond, ends = latest.split_with_sizes(self.sections, dim=-1)[2:]
        return Batch(observations, actions, beyond, sums, ends[..., 1], ends[..., 2], discounts)

    def _rows_at(self, places: Tensor) -> Tensor:
        """Transitions ``(K, B, width)`` in float32 at places ``(K, B)`` among those of all rings."""
        rows = self.storage.view(-1, self._shape[2]).index_select(0, places.view(-1)).view(*places.shape, -1)
        return rows if self._dtype == np.float32 else unpacked(rows)

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
