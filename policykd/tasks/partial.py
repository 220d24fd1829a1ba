"""A ``VectorEnv`` of which learners see a part of the observation, or a stack of the latest parts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from gymnasium.vector import VectorEnv
from torch import Tensor

from policykd.core.arrays import Array, as_numpy
from policykd.tasks.batched import BatchedEnvs
from policykd.tasks.vector import Step
from policykd.tasks.views import View


class PartialEnvs(BatchedEnvs):
    """``BatchedEnvs`` whose observations are mapped by a view; ``full_observation`` keeps the full ones.

    Args:
        vector: the environments.
        view: the part that learners see.
        learners: as in ``BatchedEnvs``.
        folders: as in ``BatchedEnvs``.
        append: as in ``BatchedEnvs``.
    """

    full_observation: Array
    """The latest full observations ``(E, O)``."""

    def __init__(self, vector: VectorEnv, view: View, learners: int, folders: list[Path] | None, append: bool) -> None:
        super().__init__(vector, learners, folders, append)
        self.view = view
        self.parts: Array | None = None
        """The latest parts of every episode, oldest first, ``(E, history, P)``."""

    def start(self, seeds: list[int]) -> Array:
        """Start the first episode of every environment; returns the learners' view of it, ``(E, I)``."""
        self.full_observation, self.parts = super().start(seeds), None
        self.parts = self._after(self.full_observation, np.ones(self.num_envs, bool))
        return self.parts.reshape(self.num_envs, -1)

    def advance(self, actions: Array, scaled: bool) -> Step:
        """As in ``BatchedEnvs``; the ``info`` of an ended episode has its last ``full_observation``."""
        step = super().advance(actions, scaled)
        parts = self._after(step.next_observations, np.zeros(self.num_envs, bool))
        following = parts.reshape(self.num_envs, -1)
        self.full_observation = step.observations
        self.parts = self._after(step.observations, step.dones) if step.dones.any() else parts
        for e in np.flatnonzero(step.dones):
            info = step.infos[e]
            info["full_observation"], info["terminal_observation"] = (
                info["terminal_observation"],
                as_numpy(following[e]),
            )
        return step._replace(observations=self.parts.reshape(self.num_envs, -1), next_observations=following)

    def _after(self, observations: Array, starts: np.ndarray) -> Array:
        """The latest parts ``(E, history, P)`` after one more observation; episodes start where ``starts`` says."""
        if not isinstance(observations, Tensor):
            return self.view.push(self.view(observations), self.parts, starts)  # type: ignore[arg-type]
        begun = torch.from_numpy(starts).to(observations.device)
        return self.view.push_torch(self.view.of_torch(observations), self.parts, begun)  # type: ignore[arg-type]

    def state(self) -> dict[str, Any]:
        """As in ``BatchedEnvs``, with the latest parts."""
        assert self.parts is not None
        seen = {"full_observation": as_numpy(self.full_observation), "parts": as_numpy(self.parts)}
        return {**super().state(), **seen}

    def restore(self, saved: dict[str, Any], observations: Array) -> Array:
        """As in ``BatchedEnvs``."""
        seen = super().restore(saved, observations)
        parts = saved["full_observation"], saved["parts"]
        whole, latest = (
            torch.as_tensor(p, device=self.device) if self.tensors else np.array(p, np.float32) for p in parts
        )
        self.full_observation, self.parts = whole, latest
        return seen
