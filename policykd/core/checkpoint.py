"""Checkpoints: one safetensors file, written atomically, read without running code.

Tensors are stored as they are; everything else is JSON in the file's header. There is no pickle in it, so nothing
in a file can run when it is loaded (stricter than ``torch.load(weights_only=True)``, which interprets a pickle).
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from policykd.core.errors import PolicyKDError
from policykd.core.parsing import parse_json

FORMAT = "policykd-checkpoint-1"
ARRAY = "__array__"
MOST_HEADER = 32_000_000
"""Bytes of names, shapes and plain values; those of large runs are a few millions."""


def save(path: Path, state: dict[str, Any]) -> None:
    """Write nested ``state`` (dicts and lists of tensors, arrays and plain values) to ``path``, whole or not at all.

    Raises:
        PolicyKDError: the file could not be written; what was at ``path`` before is untouched.
    """
    tensors: dict[str, Tensor] = {}
    tree = _take_arrays(state, "", tensors)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file(tensors, temporary, metadata={"format": FORMAT, "state": json.dumps(tree)})
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except (OSError, SafetensorError) as error:
        raise PolicyKDError(f"checkpoint: cannot write {path}: {error}; the previous checkpoint is untouched") from None
    finally:
        temporary.unlink(missing_ok=True)


def load(path: Path) -> dict[str, Any]:
    """Read back what ``save`` wrote; tensors come as CPU tensors, arrays as numpy arrays.

    Raises:
        PolicyKDError: there is no such file, it is cut short, or it is no checkpoint of policykd.
    """
    if not path.is_file():
        raise PolicyKDError(f"checkpoint: there is no file {path}")
    try:
        check_header(path)
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            if metadata.get("format") != FORMAT:
                raise PolicyKDError(f"checkpoint: {path} is not a checkpoint of policykd")
            state = _put_arrays(parse_json(metadata["state"]), file)
    except PolicyKDError:
        raise
    except Exception as error:  # what a damaged file makes of it has no class in common
        raise PolicyKDError(
            f"checkpoint: {path} is damaged or not a checkpoint of policykd ({one_line(error)})"
        ) from None
    if not isinstance(state, dict):
        raise PolicyKDError(f"checkpoint: {path} is damaged: it holds no state")
    return state


def check_header(path: Path) -> None:
    """Refuse a safetensors file whose header could not be one, before a library reads it.

    Raises:
        OSError, ValueError: the file cannot be read, or its header is longer than any.
    """
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
    if length > min(MOST_HEADER, path.stat().st_size):
        raise ValueError(f"its header would have {length:,} bytes")


@contextmanager
def understood(path: str | Path) -> Iterator[None]:
    """Whatever comes of a file of the right format and wrong content is one line.

    Raises:
        PolicyKDError: in place of what a value of a wrong type, a missing part or a shape that does not fit raised.
    """
    try:
        yield
    except (PolicyKDError, OSError, NotImplementedError):
        raise
    except (LookupError, TypeError, ValueError, AttributeError, RuntimeError, ArithmeticError, MemoryError) as error:
        raise PolicyKDError(f"checkpoint: {path} cannot be loaded ({one_line(error)})") from error


def one_line(error: Exception) -> str:
    """An error's kind and the first line of its text."""
    return f"{type(error).__name__}: {error}".partition("\n")[0][:300]


def _take_arrays(value: Any, name: str, tensors: dict[str, Tensor]) -> Any:
    """``value`` as JSON, its tensors and arrays moved to ``tensors`` under their path."""
    if isinstance(value, Tensor | np.ndarray):
        kind = "tensor" if isinstance(value, Tensor) else "array"
        name = f"{len(tensors)}{name}"  # a number keeps apart {"a/b": t} and {"a": {"b": t}}
        if isinstance(value, np.ndarray):
            value = torch.from_numpy(np.array(value))  # torch takes no negative strides and no memory it may not write
        # A clone: safetensors refuses tensors that share memory, and views of arrays often do.
        tensors[name] = value.detach().cpu().contiguous().clone()
        return {ARRAY: [kind, name]}
    if isinstance(value, dict):
        return {str(key): _take_arrays(item, f"{name}/{key}", tensors) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_take_arrays(item, f"{name}/{index}", tensors) for index, item in enumerate(value)]
    return value.item() if isinstance(value, np.generic) else value


def _put_arrays(value: Any, file: Any) -> Any:
    if isinstance(value, dict):
        if ARRAY in value:
            kind, name = value[ARRAY]
            tensor = file.get_tensor(name)
            return tensor if kind == "tensor" else tensor.numpy()
        return {key: _put_arrays(item, file) for key, item in value.items()}
    if isinstance(value, list):
        return [_put_arrays(item, file) for item in value]
    return value
