"""Checks a ``VectorEnv`` against Gymnasium's interface at every step; each violation is a one-line error."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv, VectorEnv
from torch import Tensor

from policykd.core.arrays import Array, as_numpy
from policykd.core.errors import PolicyKDError, one_line
from policykd.tasks.contract import TaskError, kind_of, task_name

RETURNS = {
    "reset": "observations, infos",
    "step": "observations, rewards, terminations, truncations, infos",
}
NO_TRANSITION = "has autoreset_mode NEXT_STEP, whose step after an end is not a transition: make it with"


def call(vector: VectorEnv, what: str, *given: Any, **named: Any) -> tuple[Any, ...]:
    """Call ``reset`` or ``step`` of a vector.

    Raises:
        TaskError: it raised, or did not return Gymnasium's values.
    """
    try:
        result = getattr(vector, what)(*given, **named)
    except Exception as error:
        told = f"raised {type(error).__name__}: {one_line(error)}"
        raise TaskError(f"environment: {task_name(vector)}: {what} {told}") from error
    told = ""
    if not isinstance(result, tuple) or len(result) != RETURNS[what].count(",") + 1:
        told = f"({RETURNS[what]}), not {kind_of(result)}"
    elif not isinstance(result[-1], dict | None):
        told = f"a dict as infos, not {kind_of(result[-1])}"
    if told:
        raise TaskError(f"environment: {task_name(vector)}: {what} must return {told}")
    return *result[:-1], result[-1] or {}


def numbers(value: Any, shape: tuple[int, ...], dtype: str, device: torch.device | None, said: str) -> Array:
    """Copy a simulator's numbers, which it may overwrite: to a tensor on ``device``, or (None) to an array.

    Args:
        value: numbers in any container.
        shape: expected shape.
        dtype: of the copy.
        device: of the copy.
        said: what returned which value, for the error.

    Raises:
        TaskError: they have another shape, or are not numbers.
    """
    if not isinstance(value, Tensor):
        try:
            value = np.asarray(value)
        except ValueError:  # rows of different lengths
            value = np.empty(0, object)
    if tuple(value.shape) != shape:
        raise TaskError(f"{said} of shape {tuple(value.shape)}, not {shape}")
    if isinstance(value, np.ndarray) and value.dtype.kind not in "fiub":
        raise TaskError(f"{said} of {value.dtype}, not numbers")
    if device is None:
        return np.array(as_numpy(value), dtype)
    if isinstance(value, Tensor):
        return value.detach().to(device, getattr(torch, dtype), copy=True)
    return torch.from_numpy(np.array(value, dtype)).to(device)


def final(infos: dict[str, Any], name: str) -> Any:
    """The final observations of the ended episodes."""
    if "final_obs" not in infos:
        raise TaskError(f"environment: {name} ended an episode (SAME_STEP) without its infos['final_obs']")
    return infos["final_obs"]


def with_final(observations: Array, infos: dict[str, Any], which: np.ndarray, name: str) -> Array:
    """Observations ``(E, O)``, replaced in the environments ``which`` by the final ones of their ended episodes.

    Raises:
        TaskError: final observations are missing, or have another shape.
    """
    last, said = final(infos, name), f"environment: {name} returned infos['final_obs']"
    shape, device = tuple(observations.shape), observations.device if isinstance(observations, Tensor) else None
    result: Any = observations.clone() if isinstance(observations, Tensor) else observations.copy()
    if isinstance(last, Tensor) or (isinstance(last, np.ndarray) and last.dtype.kind != "O"):
        result[which] = numbers(last, shape, "float32", device, said)[which]
    else:
        each = list(np.atleast_1d(last) if isinstance(last, np.ndarray) else last) if hasattr(last, "__len__") else []
        for e in which:
            result[e] = numbers(each[e] if e < len(each) else None, shape[1:], "float32", device, said)
    kept: Array = result
    return kept


def autoreset_mode(vector: VectorEnv) -> AutoresetMode | None:
    """The vector's autoreset mode; None if it does not say."""
    mode = vector.metadata.get("autoreset_mode")
    return next((known for known in AutoresetMode if mode in (known, known.value, known.name)), None)


def check_mode(vector: VectorEnv) -> None:
    """Refuse a vector whose autoreset mode is not supported.

    Raises:
        PolicyKDError: names the supported modes.
    """
    mode, name, known = autoreset_mode(vector), task_name(vector), "AutoresetMode.SAME_STEP or DISABLED"
    if mode is None:
        raise PolicyKDError(f'environment: {name} must set metadata["autoreset_mode"]: {known}')
    if mode != AutoresetMode.NEXT_STEP or isinstance(vector.unwrapped, SyncVectorEnv):
        return
    if isinstance(vector.unwrapped, AsyncVectorEnv):
        if vector.unwrapped.shared_memory:
            return
        # Without shared memory, Gymnasium's worker keeps its flag of an ended episode, and would reset it twice.
        raise PolicyKDError(f"environment: {name} {NO_TRANSITION} shared_memory=True, or {known}")
    spec = vector.spec  # has the class that make_vec prefers to copies
    told = 'vectorization_mode="sync"' if spec and spec.entry_point and spec.vector_entry_point else known
    raise PolicyKDError(f"environment: {name} {NO_TRANSITION} {told}")
