"""Tasks whose observations are laid out as vectors: the one place where dicts and boxes of several axes become flat."""

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

from policykd.tasks.groups import Groups, OwnSpace, flatten, in_turn, laid_out, leaves


def is_laid_out(space: gym.Space) -> TypeGuard[OwnSpace]:
    """Whether observations become vectors here: dicts, and what SB3's ``MlpPolicy`` flattens, which no images are."""
    several = isinstance(space, spaces.Box) and len(space.shape) > 1
    return isinstance(space, spaces.Dict) or (several and not is_image_space(space))


def is_combined(space: OwnSpace | None) -> TypeGuard[OwnSpace]:
    """Whether SB3's ``MlpPolicy`` or ``MultiInputPolicy`` lays out a task's own observations as is done here.

    Of dicts, those of one level whose groups are boxes, none of them an image; ``CombinedExtractor`` keeps groups by
    names in torch's ``ModuleDict``, which takes no dots and none of its own attributes.
    """
    if not isinstance(space, spaces.Dict):
        return space is not None
    named = all(isinstance(key, str) and "." not in key and not hasattr(nn.ModuleDict(), key) for key in space)
    return named and all(
        isinstance(part, spaces.Box) and part.shape and not is_image_space(part) for part in space.values()
    )


class FlatObservation(gym.ObservationWrapper):
    """A task whose observations, dicts or of several axes, are laid out; ``observation_groups`` are those of a dict."""

    def __init__(self, env: gym.Env) -> None:
        super().__init__(env)
        assert isinstance(env.observation_space, OwnSpace)
        self.observation_groups, self.observation_space = _flat(env.observation_space)

    @property
    def own(self) -> OwnSpace:
        """The space of the task's own observations."""
        assert isinstance(self.env.observation_space, OwnSpace)
        return self.env.observation_space

    @property
    def spec(self) -> Any:  # type: ignore[override]
        """How the task itself is made: this wrapper is no part of it."""
        return self.env.spec

    def observation(self, observation: Any) -> np.ndarray:
        """The task's own observation as a vector ``(O,)``."""
        return flatten(self.own, observation)


class FlatVector(VectorWrapper):
    """A vector of environments whose observations ``FlatObservation`` lays out; tensors stay so."""

    def __init__(self, env: VectorEnv) -> None:
        super().__init__(env)
        assert isinstance(env.single_observation_space, OwnSpace)
        self.observation_groups, self.single_observation_space = _flat(env.single_observation_space)
        self.observation_space = batch_space(self.single_observation_space, env.num_envs)

    @property
    def own(self) -> OwnSpace:
        """The space of one environment's own observations."""
        assert isinstance(self.env.single_observation_space, OwnSpace)
        return self.env.single_observation_space

    def reset(self, *, seed: Any = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Begin episodes; observations ``(E, O)``."""
        observations, infos = self.env.reset(seed=seed, options=options)
        return self._laid_out(observations), infos

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        """Take a step; ``final_obs`` is laid out, too."""
        observations, rewards, terminated, truncated, infos = self.env.step(actions)
        if infos and "final_obs" in infos:
            infos = {**infos, "final_obs": self._last(infos["final_obs"])}
        return self._laid_out(observations), rewards, terminated, truncated, infos

    def _last(self, final: Any) -> Any:
        """Last observations as an array ``(E, O)``, or each where there is one."""
        if isinstance(final, Mapping | Tensor):
            return self._laid_out(final)
        rows = np.full(self.num_envs, None, object)
        for e, last in enumerate(final):
            rows[e] = None if last is None else flatten(self.own, last)
        return rows

    def _laid_out(self, observations: Any) -> Any:
        first = observations
        while isinstance(first, Mapping):
            first = next(iter(first.values()))
        if not isinstance(first, np.ndarray | Tensor):
            return first  # of another library: whoever steps the vector says what to do
        return laid_out(self.own, observations)


def _flat(space: OwnSpace) -> tuple[Groups | None, spaces.Box]:
    """Where the groups of a dict lie (those of a box the task tells), and the space of the vectors."""
    groups = None  # first: it refuses dicts of what has no one length
    if not isinstance(space, spaces.Box):
        groups = in_turn({name: spaces.flatdim(part) for name, part in leaves(space)})
    flat = spaces.flatten_space(space)
    assert isinstance(flat, spaces.Box)
    with np.errstate(over="ignore"):
        return groups, spaces.Box(flat.low.astype(np.float32), flat.high.astype(np.float32))


def own_space(env: gym.Env) -> OwnSpace | None:
    """The space of a task's own observations, where they are laid out; None where it gives vectors."""
    layer: Any = env
    while not isinstance(layer, FlatObservation | FlatVector):
        if not isinstance(layer, gym.Wrapper | VectorWrapper) and not hasattr(layer, "vector"):
            return None
        layer = layer.env if isinstance(layer, gym.Wrapper | VectorWrapper) else layer.vector
    return layer.own
