"""Exact saving and restoring of one Gymnasium environment in the middle of an episode, without pickle.

Every attribute of the environment and of each wrapper around it that is a plain value is saved; objects held by two of
them, and an array with its views, remain shared (``shared_state``).
Plain values are None, bool, int, float, str, numpy arrays and scalars, and lists, tuples, dicts and deques
of these. Three kinds of object are saved too, and restored in place: numpy generators, the generators of
spaces, and MuJoCo's ``MjData`` with all its derived quantities (Ant and Humanoid read some of them, left from
the step before, ahead of the next one). Everything else is left as built; `unsaved_state` names it.
"""

import functools
import inspect
from collections import deque
from collections.abc import Iterator
from enum import Enum
from typing import Any

import gymnasium as gym
import mujoco
import numpy as np
import torch

from policykd.tasks.contract import CheckedTask, layers
from policykd.tasks.shared_state import Shared, base_of, view_in, viewed, views_foreign_memory

_SCALARS = (type(None), bool, int, float, str)

# Constructor arguments, opened resources, and caches of these: the new environment keeps its own.
_AS_BUILT = {
    *("env", "spec", "_cached_spec", "metadata", "_metadata"),
    *("_saved_kwargs", "_ezpickle_args", "_ezpickle_kwargs"),
    *("render_mode", "mujoco_renderer", "screen", "surf", "clock"),  # drawing
    *("fullpath", "results_writer"),  # files: the model's XML, the Monitor's csv
}


_BIT_GENERATORS = ("PCG64", "PCG64DXSM", "MT19937", "Philox", "SFC64")


def get_env_state(env: gym.Env) -> dict[str, Any]:
    """Copy the state of an environment and of its wrappers.

    Args:
        env: The environment, possibly wrapped.

    Returns:
        Nested dict and lists with string keys, whose leaves are numpy arrays or values that Python's json
        writes and reads back exactly (integers of 128 bits and infinite floats included).
    """
    shared = Shared(value for layer in _layers(env) for name, value in vars(layer).items() if name not in _AS_BUILT)
    layers = [{"class": type(layer).__name__, "attributes": _scan(layer, shared)[0]} for layer in _layers(env)]
    return {"layers": layers}


def set_env_state(env: gym.Env, state: dict[str, Any]) -> None:
    """Restore a state from `get_env_state` in an environment built in the same way.

    It then continues bit for bit as the saved one: observations, rewards, flags and later resets. No reset is
    needed before. Objects in ``env`` that are not plain values stay.

    Args:
        env: Environment with the same wrappers and the same model as the saved one.
        state: What `get_env_state` returned.

    Raises:
        ValueError: If the wrappers or the MuJoCo model are not those of the saved environment.
    """
    layers, entries = list(_layers(env)), state["layers"]
    if not any(isinstance(layer, gym.wrappers.PassiveEnvChecker) for layer in layers):
        # Older runs have Gymnasium's checker, which does not affect the task.
        entries = [entry for entry in entries if entry["class"] != "PassiveEnvChecker"]
    here, saved = [type(layer).__name__ for layer in layers], [entry["class"] for entry in entries]
    if here != saved:
        advice = "wrap the task in the same wrappers"
        raise ValueError(f"the state is of {' < '.join(saved)}, not of {' < '.join(here)}: {advice}")
    made: dict[int, Any] = {}
    for layer, entry in zip(layers, entries, strict=True):
        unsaved = _scan(layer, Shared([]))[1]
        for name, value in entry["attributes"].items():
            # Never replace an object, such as an open window, by a plain value, nor what was built by a saved value.
            if name not in unsaved and name not in _AS_BUILT:
                vars(layer)[name] = _decode(value, vars(layer).get(name), made)


def unsaved_state(env: gym.Env) -> list[str]:
    """Name the attributes that `get_env_state` cannot save and that may change between steps.

    Args:
        env: The environment, possibly wrapped.

    Returns:
        ``"Class.attribute"`` for each object that is neither saved nor known to stay as built, such as
        another physics engine or running statistics. Empty if restoring is exact.
    """
    return [f"{type(layer).__name__}.{name}" for layer in _layers(env) for name in _scan(layer, Shared([]))[1]]


def _layers(env: gym.Env) -> Iterator[gym.Env]:
    """Yield the environment and all that it wraps, without policykd's stateless ``CheckedTask``."""
    return (layer for layer in layers(env) if not isinstance(layer, CheckedTask))


def _scan(layer: gym.Env, shared: Shared) -> tuple[dict[str, Any], list[str]]:
    """Return the encoded attributes of one layer, and the names of those that cannot be encoded."""
    encoded, unsaved = {}, []
    for name, value in vars(layer).items():
        constant = isinstance(value, mujoco.MjModel | Enum) or inspect.isroutine(value) or inspect.isclass(value)
        if name in _AS_BUILT or constant:
            continue
        written = set(shared.written)
        try:
            encoded[name] = _encode(value, shared)
        except (TypeError, RecursionError):
            unsaved.append(name)
            shared.written, shared.begun = written, set(written)
    return encoded, unsaved


def _encode(value: Any, shared: Shared) -> Any:
    """Encode a value as ``_plain`` does; a shared value only once, and then by its number."""
    number = shared.number(value)
    if number is None:
        return _plain(value, shared)
    whole = base_of(value)
    entry = {"type": "shared", "number": number}
    if whole is not value:
        entry["view"] = view_in(value, whole)
    if number not in shared.written:
        if number in shared.begun:
            raise TypeError(f"a {type(value).__name__} that contains itself is not a plain value")
        shared.begun.add(number)
        entry["value"] = _plain(whole, shared)
        shared.written.add(number)
    return entry


def _plain(value: Any, shared: Shared) -> Any:
    """Copy a value into lists, arrays, scalars and ``{"type": ...}`` dicts; TypeError if it is not plain."""
    if type(value) in _SCALARS:
        return value
    if isinstance(value, np.ndarray) and value.dtype.kind in "biufc":
        return {"type": "live", "value": value.copy()} if views_foreign_memory(value) else value.copy()
    if isinstance(value, np.generic) and value.dtype.kind in "biufc":
        return {"type": "scalar", "value": np.asarray(value)}
    if type(value) is list:
        return [_encode(item, shared) for item in value]
    if type(value) is tuple:
        return {"type": "tuple", "items": [_encode(item, shared) for item in value]}
    if type(value) is deque:
        return {"type": "deque", "items": [_encode(item, shared) for item in value], "maxlen": value.maxlen}
    if type(value) is dict:
        return {"type": "dict", "items": [[_encode(key, shared), _encode(item, shared)] for key, item in value.items()]}
    if isinstance(value, np.random.Generator):
        return {"type": "generator", "state": _encode(value.bit_generator.state, shared)}
    if isinstance(value, gym.spaces.Dict):
        parts = [[name, _encode(part, shared)] for name, part in value.spaces.items()]
        return {"type": "spaces", "generator": _encode(value._np_random, shared), "parts": parts}
    if isinstance(value, gym.Space) and not hasattr(value, "spaces"):
        return {"type": "space", "generator": _encode(value._np_random, shared)}
    if isinstance(value, torch.Tensor):
        return {"type": "tensor", "value": value.detach().cpu().numpy().copy()}
    if isinstance(value, torch.Generator):
        return {"type": "torch.Generator", "state": value.get_state().numpy().copy()}
    if isinstance(value, mujoco.MjData):
        fields = {name: getattr(value, name).copy() for name in _fields(value.model)}
        return {"type": "MjData", "time": value.time, "fields": fields}
    raise TypeError(f"{type(value).__name__} is not a plain value")


def _decode(value: Any, current: Any, made: dict[int, Any]) -> Any:
    """Return the encoded value; if ``current`` is an object of that kind, it is changed in place.

    ``made`` holds shared values by number.
    """
    if isinstance(value, np.ndarray):
        return value.copy()
    if isinstance(value, list):
        return [_decode(item, _part(current, index), made) for index, item in enumerate(value)]
    if not isinstance(value, dict):
        return value
    kind = value["type"]
    if kind == "shared":
        number = value["number"]
        if "value" in value:
            made[number] = _decode(value["value"], current, made)
        return viewed(made[number], *value["view"]) if "view" in value else made[number]
    if kind == "live":
        if views_foreign_memory(current) and current.shape == value["value"].shape:
            current[...] = value["value"]
            return current
        return value["value"].copy()
    if kind == "scalar":
        return value["value"][()]
    if kind == "tuple":
        return tuple(_decode(value["items"], current, made))
    if kind == "deque":
        return deque(_decode(value["items"], current, made), maxlen=value["maxlen"])
    if kind == "dict":
        items = [(_decode(key, None, made), item) for key, item in value["items"]]
        return {key: _decode(item, _part(current, key), made) for key, item in items}
    if kind == "generator":
        return _restore_generator(_decode(value["state"], None, made), current)
    if kind == "tensor":
        return torch.tensor(value["value"], device=getattr(current, "device", None))
    if kind == "torch.Generator":
        current.set_state(torch.as_tensor(value["state"]))
        return current
    if kind in ("space", "spaces"):
        current._np_random = _decode(value["generator"], current._np_random, made)
        for name, part in value.get("parts", ()):
            _decode(part, current.spaces[name], made)
        return current
    return _restore_mjdata(value, current)


def _part(current: Any, key: Any) -> Any:
    """The entry of a current container at ``key``; None if there is none."""
    try:
        return current[key]
    except (TypeError, LookupError):
        return None


def _restore_generator(state: dict[str, Any], current: np.random.Generator | None) -> np.random.Generator:
    if current is None or type(current.bit_generator).__name__ != state["bit_generator"]:
        if state["bit_generator"] not in _BIT_GENERATORS:
            raise ValueError(f"there is no bit generator {state['bit_generator']!r}")
        current = np.random.Generator(getattr(np.random, state["bit_generator"])())
    current.bit_generator.state = state
    return current


def _restore_mjdata(value: dict[str, Any], data: mujoco.MjData) -> mujoco.MjData:
    names, fields = _fields(data.model), value["fields"]
    if any(name not in fields or fields[name].shape != getattr(data, name).shape for name in names):
        raise ValueError("the state belongs to another MuJoCo model or another MuJoCo version")
    data.time = value["time"]
    for name in names:
        getattr(data, name)[...] = fields[name]
    return data


@functools.lru_cache(maxsize=16)
def _fields(model: mujoco.MjModel) -> tuple[str, ...]:
    """Name the arrays of a model's ``MjData`` that outlive a step.

    Contacts and constraint rows live in an arena that each step refills: they have no storage in a fresh
    ``MjData``, where the bindings return arrays of their own instead of views. Integers are left out: each step
    recomputes them, and MuJoCo follows some of them as addresses without a check, which no file may choose.
    """
    data = mujoco.MjData(model)
    names = []
    for name in dir(data):
        value = None if name.startswith("_") else getattr(data, name)
        if isinstance(value, np.ndarray) and value.size and not value.flags.owndata and value.dtype.kind == "f":
            names.append(name)
    return tuple(names)
