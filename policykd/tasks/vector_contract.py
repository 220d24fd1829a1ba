"""What policykd relies on at every step of a ``VectorEnv``; one line where it is not so."""

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
NO_TRANSITION = "has autoreset_mode NEXT_STEP, whose step after an end is no transition: make it with"


def call(vector: VectorEnv, what: str, *given: Any, **named: Any) -> tuple[Any, ...]:
    """What ``reset`` or ``step`` of a vector returns.

    Raises:
        TaskError: it raised, or returned something else than Gymnasium's values.
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
    """A copy of numbers, as a simulator may write into its own: a tensor on ``device``, or (None) an array.

    Args:
        value: numbers ``shape``, in whatever holds them.
        shape: what they must have.
        dtype: of the copy.
        device: of the copy.
        said: who returned what, for the error.

    Raises:
        TaskError: they have another shape, or are no numbers.
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
    """The last observations of the episodes that ended."""
    if "final_obs" not in infos:
        raise TaskError(f"environment: {name} ended an episode (SAME_STEP) without its infos['final_obs']")
    return infos["final_obs"]


def with_final(observations: Array, infos: dict[str, Any], which: np.ndarray, name: str) -> Array:
    """Observations ``(E, O)``, but in the environments ``which`` the last ones of the episodes that ended.

    Raises:
        TaskError: there are none, or they have another shape.
    """
    last, said = final(infos, name), f"environment: {name} returned infos['final_obs']"
    shape, device = tuple(observations.shape), observations.device if isinstance(observations, Tensor) else None
    shown: Any = observations.clone() if isinstance(observations, Tensor) else observations.copy()
    if isinstance(last, Tensor) or (isinstance(last, np.ndarray) and last.dtype.kind != "O"):
        shown[which] = numbers(last, shape, "float32", device, said)[which]
    else:
        each = list(np.atleast_1d(last) if isinstance(last, np.ndarray) else last) if hasattr(last, "__len__") else []
        for e in which:
            shown[e] = numbers(each[e] if e < len(each) else None, shape[1:], "float32", device, said)
    kept: Array = shown
    return kept


def autoreset_mode(vector: VectorEnv) -> AutoresetMode | None:
    """When an ended episode is followed by the next; None where the vector does not say so."""
    mode = vector.metadata.get("autoreset_mode")
    return next((known for known in AutoresetMode if mode in (known, known.value, known.name)), None)


def check_mode(vector: VectorEnv) -> None:
    """Refuse a vector whose episodes end in a way that cannot be learnt from.

    Raises:
        PolicyKDError: names the modes that can.
    """
    mode, name, known = autoreset_mode(vector), task_name(vector), "AutoresetMode.SAME_STEP or DISABLED"
    if mode is None:
        raise PolicyKDError(f'environment: {name} must say metadata["autoreset_mode"]: {known}')
    if mode != AutoresetMode.NEXT_STEP or isinstance(vector.unwrapped, SyncVectorEnv):
        return
    if isinstance(vector.unwrapped, AsyncVectorEnv):
        if vector.unwrapped.shared_memory:
            return
        # Gymnasium's worker forgets that an episode ended only where it shares memory: it would reset it twice.
        raise PolicyKDError(f"environment: {name} {NO_TRANSITION} shared_memory=True, or {known}")
    spec = vector.spec  # of the class that make_vec takes where it is not told to make copies
    told = 'vectorization_mode="sync"' if spec and spec.entry_point and spec.vector_entry_point else known
    raise PolicyKDError(f"environment: {name} {NO_TRANSITION} {told}")
