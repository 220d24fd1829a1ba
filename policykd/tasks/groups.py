"""Named groups of an observation, and how dicts and boxes of several axes are flattened to a vector.

Groups are concatenated in the order of their ``Dict`` space (Gymnasium sorts a plain dict's keys), nested dicts
recursively, and a group's name is its path (``robot/joints``). A Box is flattened in row-major order, Discrete and
MultiDiscrete are one-hot. This is the order of Gymnasium's ``FlattenObservation`` and SB3's ``CombinedExtractor``.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import accumulate
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium import spaces
from gymnasium.vector import AsyncVectorEnv, SyncVectorEnv, VectorEnv, VectorWrapper
from torch import Tensor

from policykd.core.arrays import Array, as_numpy
from policykd.core.errors import PolicyKDError, nearest

Groups = dict[str, tuple[int, ...]]
"""Columns of a flat observation by group name."""
OwnSpace = spaces.Dict | spaces.Box
"""Spaces whose observations are flattened: a dict, or a box of several axes."""


def leaves(space: spaces.Dict, path: str = "") -> Iterator[tuple[str, gym.Space]]:
    """Name and space of every group, in order.

    Raises:
        PolicyKDError: a group is not numeric.
    """
    for key, part in space.spaces.items():
        name = f"{path}{key}"
        if isinstance(part, spaces.Dict):
            yield from leaves(part, f"{name}/")
        elif isinstance(part, spaces.Box | spaces.Discrete | spaces.MultiDiscrete | spaces.MultiBinary):
            yield name, part
        else:
            raise PolicyKDError(
                f"environment: the observation group {name} is a {type(part).__name__}; policykd takes Box, "
                "Discrete, MultiDiscrete and MultiBinary"
            )


def flatten(space: OwnSpace, observation: Any) -> np.ndarray:
    """``to_vector`` in NumPy."""
    return as_numpy(to_vector(space, observation))


def as_rows(space: OwnSpace | None, observation: Any) -> np.ndarray:
    """Flatten observations of this space, or accept flat ones, as ``(..., O)``, float32.

    Raises:
        ValueError: as for ``to_vector``.
    """
    if isinstance(space, spaces.Dict) and isinstance(observation, Mapping):
        return flatten(space, observation)
    array = np.asarray(observation, np.float32)
    if isinstance(space, spaces.Box) and array.shape[-len(space.shape) :] == space.shape:
        return array.reshape(*array.shape[: -len(space.shape)], -1)
    return array


def to_vector(space: OwnSpace, observation: Any, path: str = "") -> Array:
    """Flatten one observation of a task to ``(O,)``, or n observations to ``(n, O)``, float32.

    Tensors stay on their device.

    Raises:
        ValueError: a group is missing, or a shape does not fit the space.
    """
    if isinstance(space, spaces.Dict):
        joined = _joined(_parts(space, observation, path))
    else:
        joined = _rows("the observation", space, _array(observation))
    return joined.to(torch.float32) if isinstance(joined, Tensor) else joined.astype(np.float32)


def _parts(space: spaces.Dict, observation: Any, path: str) -> Iterator[Array]:
    """The groups of a dict, each flattened."""
    for key, part in space.spaces.items():
        name = f"{path}{key}"
        if not isinstance(observation, Mapping) or key not in observation:
            raise ValueError(f"the observation has no group {name}, which its space has")
        if isinstance(part, spaces.Dict):
            yield to_vector(part, observation[key], f"{name}/")
        else:
            yield _rows(f"the observation's group {name}", part, _array(observation[key]))


def _array(value: Any) -> Array:
    return value if isinstance(value, Tensor) else np.asarray(value)


def _joined(each: Iterable[Array]) -> Array:
    """Concatenate parts; if one is a tensor, on its device."""
    parts = list(each)
    device = next((part.device for part in parts if isinstance(part, Tensor)), None)
    if device is None:
        return np.concatenate(parts, axis=-1)
    return torch.cat([torch.as_tensor(part, device=device) for part in parts], dim=-1)


def _rows(what: str, space: gym.Space, value: Array) -> Array:
    """Flatten a group ``(*shape)`` to ``(o,)``, or n of it to ``(n, o)``."""
    shape = space.shape or ()
    lead = value.ndim - len(shape)
    if lead not in (0, 1) or value.shape[lead:] != shape:
        raise ValueError(f"{what} has shape {tuple(value.shape)}, and its space {shape}")
    if isinstance(space, spaces.Discrete):
        return _hot(space.n, value - int(space.start))
    rows = value.reshape(*value.shape[:lead], -1)
    if isinstance(space, spaces.MultiDiscrete):
        ranges = enumerate(zip(space.nvec.ravel().tolist(), space.start.ravel().tolist(), strict=True))
        return _joined([_hot(n, rows[..., i] - start) for i, (n, start) in ranges])
    return rows


def _hot(count: int, places: Array) -> Array:
    """One-hot encoding ``(..., count)`` of indices ``(...)``."""
    if isinstance(places, Tensor):
        return torch.arange(count, device=places.device) == places[..., None]
    hot: np.ndarray = np.arange(count) == places[..., None]
    return hot


def unflatten(space: OwnSpace, rows: np.ndarray) -> Any:
    """Inverse of ``to_vector`` for rows ``(n, O)``; one-hot groups take the index of the largest entry."""
    if isinstance(space, spaces.Box):
        return rows.astype(space.dtype).reshape(-1, *space.shape)
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


def groups_of(env: gym.Env | VectorEnv) -> Groups:
    """The groups that a task itself names: those of its dict, of an attribute ``observation_groups``, or MuJoCo's.

    MuJoCo's v5 tasks have ``qpos``, ``qvel`` and others (``observation_structure``). A vector that names none has the
    groups of the environments it copies. Behind a wrapper that changes the number of columns there are none.
    """
    size = _length(env)
    layer: Any = env
    while True:
        own = getattr(layer, "observation_groups", None)
        if isinstance(own, Mapping):
            if _length(layer) not in (size, None):  # a wrapper has moved its columns
                return {}
            return {str(name): tuple(int(column) for column in columns) for name, columns in own.items()}
        if not isinstance(layer, gym.Wrapper | VectorWrapper):
            break
        layer = layer.env
    if isinstance(layer, SyncVectorEnv | AsyncVectorEnv):
        copy = layer.env_fns[0]()
        copy.close()
        return groups_of(copy) if _length(copy) == size else {}
    parts = {name: n for name, n in getattr(layer, "observation_structure", {}).items() if name != "skipped_qpos"}
    return in_turn(parts) if size == sum(parts.values()) else {}


def _length(env: gym.Env | VectorEnv) -> int | None:
    """Length of one environment's flat observation; None if its space has no shape."""
    shape = getattr(env, "single_observation_space", env.observation_space).shape
    return None if shape is None else math.prod(shape)


def columns_of(what: str, chosen: str | Sequence[int | str], groups: Mapping[str, Sequence[int]]) -> tuple[int, ...]:
    """Resolve names of groups, columns or both to columns, in the given order.

    Args:
        what: the setting, for errors.
        chosen: a name, or several names and columns; ``robot`` stands for all groups below ``robot/``.
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
            there = (
                f"; there are {', '.join(groups)}"
                if groups
                else "; the task has no named groups: set observation_groups"
            )
            raise PolicyKDError(f"{what}: there is no observation group {part!r}{nearest(part, groups)}{there}")
        found += [int(column) for columns in below for column in columns]
    return tuple(found)


def in_turn(sizes: Mapping[str, int]) -> Groups:
    """Groups of these sizes in consecutive columns."""
    ends = list(accumulate(sizes.values()))
    return {name: tuple(range(end - n, end)) for (name, n), end in zip(sizes.items(), ends, strict=True)}
