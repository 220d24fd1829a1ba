"""Flattens observations: the only place where dicts and boxes of several axes become vectors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeGuard

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.vector import VectorEnv, VectorWrapper
from gymnasium.vector.utils import batch_space
from stable_baselines3.common.preprocessing import is_image_space
from torch import Tensor, nn

from policykd.tasks.groups import Groups, OwnSpace, flatten, in_turn, leaves, to_vector


def needs_flattening(space: gym.Space) -> TypeGuard[OwnSpace]:
    """Whether observations are flattened here: dicts, and what SB3's ``MlpPolicy`` flattens, so not images."""
    several = isinstance(space, spaces.Box) and len(space.shape) > 1
    return isinstance(space, spaces.Dict) or (several and not is_image_space(space))


def is_combined(space: OwnSpace | None) -> TypeGuard[OwnSpace]:
    """Whether SB3's ``MlpPolicy`` or ``MultiInputPolicy`` flattens a task's observations in the same way.

    True for dicts of one level whose groups are boxes but not images; ``CombinedExtractor`` keeps groups by name in
    torch's ``ModuleDict``, whose keys may contain no dots and not be its attributes.
    """
    if not isinstance(space, spaces.Dict):
        return space is not None
    named = all(isinstance(key, str) and "." not in key and not hasattr(nn.ModuleDict(), key) for key in space)
    return named and all(
        isinstance(part, spaces.Box) and part.shape and not is_image_space(part) for part in space.values()
    )


class FlatObservation(gym.ObservationWrapper):
    """Flattens observations that are dicts or have several axes; ``observation_groups`` are those of a dict."""

    def __init__(self, env: gym.Env) -> None:
        super().__init__(env)
        assert isinstance(env.observation_space, OwnSpace)
        self.observation_groups, self.observation_space = _flat(env.observation_space)

    @property
    def original_space(self) -> OwnSpace:
        """The task's original observation space."""
        assert isinstance(self.env.observation_space, OwnSpace)
        return self.env.observation_space

    @property
    def spec(self) -> Any:  # type: ignore[override]
        """Spec of the task itself, without this wrapper."""
        return self.env.spec

    def observation(self, observation: Any) -> np.ndarray:
        """Flatten the task's observation to a vector ``(O,)``."""
        return flatten(self.original_space, observation)


class FlatVector(VectorWrapper):
    """``FlatObservation`` for a ``VectorEnv``; tensors remain tensors."""

    def __init__(self, env: VectorEnv) -> None:
        super().__init__(env)
        assert isinstance(env.single_observation_space, OwnSpace)
        self.observation_groups, self.single_observation_space = _flat(env.single_observation_space)
        self.observation_space = batch_space(self.single_observation_space, env.num_envs)

    @property
    def original_space(self) -> OwnSpace:
        """The original observation space of one environment."""
        assert isinstance(self.env.single_observation_space, OwnSpace)
        return self.env.single_observation_space

    def reset(self, *, seed: Any = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Start episodes; returns observations ``(E, O)``."""
        observations, infos = self.env.reset(seed=seed, options=options)
        return self._flatten(observations), infos

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        """Take a step; ``final_obs`` is flattened, too."""
        observations, rewards, terminated, truncated, infos = self.env.step(actions)
        if infos and "final_obs" in infos:
            infos = {**infos, "final_obs": self._last(infos["final_obs"])}
        return self._flatten(observations), rewards, terminated, truncated, infos

    def _last(self, final: Any) -> Any:
        """Flatten final observations: an array ``(E, O)``, or one entry per ended episode."""
        if isinstance(final, Mapping | Tensor):
            return self._flatten(final)
        rows = np.full(self.num_envs, None, object)
        for e, last in enumerate(final):
            rows[e] = None if last is None else flatten(self.original_space, last)
        return rows

    def _flatten(self, observations: Any) -> Any:
        first = observations
        while isinstance(first, Mapping):
            first = next(iter(first.values()))
        if not isinstance(first, np.ndarray | Tensor):
            return first  # from another library: the caller that steps the vector reports it
        return to_vector(self.original_space, observations)


def _flat(space: OwnSpace) -> tuple[Groups | None, spaces.Box]:
    """Columns of a dict's groups (None for a box, whose groups the task names), and the flat space."""
    groups = None  # before flattening: ``leaves`` refuses dicts with entries of variable length
    if not isinstance(space, spaces.Box):
        groups = in_turn({name: spaces.flatdim(part) for name, part in leaves(space)})
    flat = spaces.flatten_space(space)
    assert isinstance(flat, spaces.Box)
    with np.errstate(over="ignore"):
        return groups, spaces.Box(flat.low.astype(np.float32), flat.high.astype(np.float32))


def own_space(env: gym.Env) -> OwnSpace | None:
    """A task's original observation space if it was flattened; None if observations are vectors already."""
    layer: Any = env
    while not isinstance(layer, FlatObservation | FlatVector):
        if not isinstance(layer, gym.Wrapper | VectorWrapper) and not hasattr(layer, "vector"):
            return None
        layer = layer.env if isinstance(layer, gym.Wrapper | VectorWrapper) else layer.vector
    return layer.original_space
