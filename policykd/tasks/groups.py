"""Named groups of a task's observation, and dicts of observations as one flat vector by one rule.

The rule: groups follow one another in the order of their ``Dict`` space (Gymnasium sorts a plain dict's keys), a dict
within a dict in its own turn, and a group is called by the path to it (``robot/joints``). A Box is laid out row by
row, Discrete and MultiDiscrete are one-hot. It is that of Gymnasium's ``FlattenObservation`` and of SB3's
``CombinedExtractor``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import accumulate
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium import spaces
from gymnasium.vector import AsyncVectorEnv, SyncVectorEnv, VectorEnv, VectorWrapper
from gymnasium.vector.utils import batch_space
from torch import Tensor

from policykd.core.arrays import Array, as_numpy
from policykd.core.errors import PolicyKDError, nearest

Groups = dict[str, tuple[int, ...]]
"""Columns of a flat observation by the group's name."""


def leaves(space: spaces.Dict, path: str = "") -> Iterator[tuple[str, gym.Space]]:
    """Name and space of every group, in order.

    Raises:
        PolicyKDError: a group is none of numbers.
    """
    for key, part in space.spaces.items():
        name = f"{path}{key}"
        if isinstance(part, spaces.Dict):
            yield from leaves(part, f"{name}/")
        elif isinstance(part, spaces.Box | spaces.Discrete | spaces.MultiDiscrete | spaces.MultiBinary):
            yield name, part
        else:
            raise PolicyKDError(
                f"environment: the observation's group {name} is a {type(part).__name__}; policykd takes Box, "
                "Discrete, MultiDiscrete and MultiBinary"
            )


def flatten(space: spaces.Dict, observation: Mapping[str, Any]) -> np.ndarray:
    """``laid_out`` in NumPy."""
    return as_numpy(laid_out(space, observation))


def laid_out(space: spaces.Dict, observation: Mapping[str, Any], path: str = "") -> Array:
    """A dict of one observation as a vector ``(O,)``, or of n observations as ``(n, O)``, float32.

    Tensors stay on their device.

    Raises:
        ValueError: a group is missing, or has another shape than its space.
    """
    parts: list[Array] = []
    for key, part in space.spaces.items():
        name = f"{path}{key}"
        if not isinstance(observation, Mapping) or key not in observation:
            raise ValueError(f"the observation lacks the group {name} of its space")
        if isinstance(part, spaces.Dict):
            parts.append(laid_out(part, observation[key], f"{name}/"))
        else:
            value = observation[key]
            parts.append(_rows(name, part, value if isinstance(value, Tensor) else np.asarray(value)))
    joined = _joined(parts)
    return joined.to(torch.float32) if isinstance(joined, Tensor) else joined.astype(np.float32)


def _joined(parts: Sequence[Array]) -> Array:
    """Parts side by side; where one is a tensor, on its device."""
    device = next((part.device for part in parts if isinstance(part, Tensor)), None)
    if device is None:
        return np.concatenate(parts, axis=-1)
    return torch.cat([torch.as_tensor(part, device=device) for part in parts], dim=-1)


def _rows(name: str, space: gym.Space, value: Array) -> Array:
    """One group ``(*shape)`` as ``(o,)``, or n of it as ``(n, o)``."""
    shape = space.shape or ()
    lead = value.ndim - len(shape)
    if lead not in (0, 1) or value.shape[lead:] != shape:
        raise ValueError(f"the observation's group {name} has shape {value.shape}, and its space {shape}")
    if isinstance(space, spaces.Discrete):
        return _hot(space.n, value - int(space.start))
    rows = value.reshape(*value.shape[:lead], -1)
    if isinstance(space, spaces.MultiDiscrete):
        ranges = enumerate(zip(space.nvec.ravel().tolist(), space.start.ravel().tolist(), strict=True))
        return _joined([_hot(n, rows[..., i] - start) for i, (n, start) in ranges])
    return rows


def _hot(count: int, places: Array) -> Array:
    """Places ``(...)`` as ``(..., count)``, true there alone."""
    if isinstance(places, Tensor):
        return torch.arange(count, device=places.device) == places[..., None]
    hot: np.ndarray = np.arange(count) == places[..., None]
    return hot


def unflatten(space: spaces.Dict, rows: np.ndarray) -> dict[str, Any]:
    """The dict of n observations that ``(n, O)`` is; of what should be one-hot, the largest counts."""
    observation: dict[str, Any] = {}
    ends = np.cumsum([spaces.flatdim(part) for part in space.spaces.values()])
    for (key, part), columns in zip(space.spaces.items(), np.split(rows, ends[:-1], axis=1), strict=True):
        if isinstance(part, spaces.Dict):
            observation[key] = unflatten(part, columns)
        elif isinstance(part, spaces.Discrete):
            observation[key] = columns.argmax(1) + part.start
        elif isinstance(part, spaces.MultiDiscrete):
            places = np.split(columns, np.cumsum(part.nvec.ravel())[:-1], axis=1)
            chosen = np.stack([place.argmax(1) for place in places], axis=1).reshape(-1, *part.nvec.shape)
            observation[key] = chosen + part.start
        elif isinstance(part, spaces.MultiBinary):
            observation[key] = (columns > 0.5).astype(np.int8).reshape(-1, *part.shape)
        else:
            observation[key] = columns.astype(part.dtype).reshape(-1, *(part.shape or ()))
    return observation


class FlatObservation(gym.ObservationWrapper):
    """A task whose dicts of observations are flat vectors; ``groups`` tells what lies where."""

    def __init__(self, env: gym.Env) -> None:
        super().__init__(env)
        assert isinstance(env.observation_space, spaces.Dict)
        self.groups, self.observation_space = _flat(env.observation_space)

    @property
    def dicts(self) -> spaces.Dict:
        """The space of the task's own observations."""
        assert isinstance(self.env.observation_space, spaces.Dict)
        return self.env.observation_space

    @property
    def spec(self) -> Any:  # type: ignore[override]
        """How the task itself is made: this wrapper is no part of it."""
        return self.env.spec

    def observation(self, observation: Any) -> np.ndarray:
        """The dict as a vector ``(O,)``."""
        return flatten(self.dicts, observation)


class FlatVector(VectorWrapper):
    """A vector of environments with dicts of observations, as ``FlatObservation`` lays them out; tensors stay so."""

    def __init__(self, env: VectorEnv) -> None:
        super().__init__(env)
        assert isinstance(env.single_observation_space, spaces.Dict)
        self.groups, self.single_observation_space = _flat(env.single_observation_space)
        self.observation_space = batch_space(self.single_observation_space, env.num_envs)

    @property
    def dicts(self) -> spaces.Dict:
        """The space of one environment's own observations."""
        assert isinstance(self.env.single_observation_space, spaces.Dict)
        return self.env.single_observation_space

    def reset(self, *, seed: Any = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Begin episodes; observations ``(E, O)``."""
        observations, infos = self.env.reset(seed=seed, options=options)
        return self._laid_out(observations), infos

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        """Take a step; ``final_obs`` is laid out, too."""
        observations, rewards, terminated, truncated, infos = self.env.step(actions)
        if "final_obs" in infos:
            infos = {**infos, "final_obs": self._last(infos["final_obs"])}
        return self._laid_out(observations), rewards, terminated, truncated, infos

    def _last(self, final: Any) -> Any:
        """Last observations as an array ``(E, O)``, or each where there is one."""
        if isinstance(final, Mapping):
            return self._laid_out(final)
        rows = np.full(self.num_envs, None, object)
        for e, last in enumerate(final):
            rows[e] = None if last is None else flatten(self.dicts, last)
        return rows

    def _laid_out(self, observations: Any) -> Any:
        first = observations
        while isinstance(first, Mapping):
            first = next(iter(first.values()))
        if not isinstance(first, np.ndarray | Tensor):
            return first  # of another library: whoever steps the vector says what to do
        return laid_out(self.dicts, observations)


def _flat(space: spaces.Dict) -> tuple[Groups, spaces.Box]:
    """Where the groups of a dict lie, and the space of its vectors."""
    flat = spaces.flatten_space(space)
    assert isinstance(flat, spaces.Box)
    with np.errstate(over="ignore"):
        box = spaces.Box(flat.low.astype(np.float32), flat.high.astype(np.float32))
    return _in_turn({name: spaces.flatdim(part) for name, part in leaves(space)}), box


def dict_space(env: gym.Env) -> spaces.Dict | None:
    """The space of a task's own dicts of observations; None where it gives vectors."""
    layer: Any = env
    while not isinstance(layer, FlatObservation | FlatVector):
        if not isinstance(layer, gym.Wrapper | VectorWrapper) and not hasattr(layer, "vector"):
            return None
        layer = layer.env if isinstance(layer, gym.Wrapper | VectorWrapper) else layer.vector
    return layer.dicts


def groups_of(env: gym.Env | VectorEnv) -> Groups:
    """The groups that a task itself tells: those of its dict, an attribute ``observation_groups``, MuJoCo's parts.

    MuJoCo's v5 tasks have ``qpos``, ``qvel`` and others (``observation_structure``). A vector that names none has the
    groups of the environments that it copies.
    """
    size = getattr(env, "single_observation_space", env.observation_space).shape
    layer: Any = env
    while True:
        if isinstance(layer, FlatObservation | FlatVector):
            return dict(layer.groups)
        own = getattr(layer, "observation_groups", None)
        if isinstance(own, Mapping):
            return {str(name): tuple(int(column) for column in columns) for name, columns in own.items()}
        if not isinstance(layer, gym.Wrapper | VectorWrapper):
            break
        layer = layer.env
    if isinstance(layer, SyncVectorEnv | AsyncVectorEnv):
        copy = layer.env_fns[0]()
        copy.close()
        return groups_of(copy) if copy.observation_space.shape == size else {}
    parts = {name: n for name, n in getattr(layer, "observation_structure", {}).items() if name != "skipped_qpos"}
    return _in_turn(parts) if size == (sum(parts.values()),) else {}


def columns_of(what: str, chosen: str | Sequence[int | str], groups: Mapping[str, Sequence[int]]) -> tuple[int, ...]:
    """Columns of what names groups, columns or both, in the order in which it names them.

    Args:
        what: the setting, for errors.
        chosen: a name, or several names and columns; ``robot`` names all groups below ``robot/``.
        groups: columns by group.

    Raises:
        PolicyKDError: there is no such group.
    """
    found: list[int] = []
    for part in [chosen] if isinstance(chosen, str) else chosen:
        if not isinstance(part, str):
            found.append(int(part))
            continue
        below = [columns for name, columns in groups.items() if name == part or name.startswith(f"{part}/")]
        if not below:
            there = f"; there are {', '.join(groups)}" if groups else "; the task names none: set observation_groups"
            raise PolicyKDError(f"{what}: there is no group {part!r} of observations{nearest(part, groups)}{there}")
        found += [int(column) for columns in below for column in columns]
    return tuple(found)


def _in_turn(sizes: Mapping[str, int]) -> Groups:
    """Groups of these sizes, one after the other."""
    ends = list(accumulate(sizes.values()))
    return {name: tuple(range(end - n, end)) for (name, n), end in zip(sizes.items(), ends, strict=True)}
