"""Checkpoints: one safetensors file, written atomically, read without running code.

Tensors are stored as they are; everything else is JSON in the file's header. Without pickle, no code in a file can run
when it is loaded (stricter than ``torch.load(weights_only=True)``, which interprets a pickle).
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from policykd.core.errors import PolicyKDError, nearest, type_and_text
from policykd.core.files import atomic_file
from policykd.core.parsing import parse_json

FORMAT = "policykd-checkpoint-1"
ARRAY = "__array__"
MOST_HEADER = 32_000_000
"""Maximum bytes of names, shapes and plain values; large runs have a few million."""
CHUNK = 2**22
"""Bytes of a tensor copied at a time, which bounds the extra memory of a checkpoint."""
DTYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint64: "U64",
    torch.uint32: "U32",
    torch.uint16: "U16",
    torch.uint8: "U8",
    torch.bool: "BOOL",
    torch.complex64: "C64",
}
"""Names of dtypes in the format."""


def save(path: Path, state: dict[str, Any]) -> None:
    """Write nested ``state`` (dicts and lists of tensors, arrays and plain values) to ``path``, atomically.

    Raises:
        PolicyKDError: the file could not be written; an existing file is unchanged.
    """
    tensors: dict[str, Tensor] = {}
    tree = _take_arrays(state, "", tensors)
    metadata = {"format": FORMAT, "state": json.dumps(tree)}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_file(path) as file:
            for piece in _safetensors(tensors, metadata):
                file.write(piece)
    except OSError as error:
        raise PolicyKDError(
            f"checkpoint: cannot write {path}: {error.strerror}; the previous checkpoint is untouched"
        ) from None


def _safetensors(tensors: dict[str, Tensor], metadata: dict[str, str]) -> Iterator[bytes | memoryview]:
    """Yield a safetensors file in pieces; the library's own writer builds all of it in memory first."""
    # Wide dtypes first, as in the library, so that every tensor is aligned to its element size.
    order = sorted(tensors, key=lambda name: -tensors[name].element_size())
    header: dict[str, Any] = {"__metadata__": metadata}
    end = 0
    for name in order:
        tensor, start = tensors[name], end
        end += tensor.nbytes
        header[name] = {"dtype": DTYPES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    yield len(text).to_bytes(8, "little") + text
    for name in order:
        for piece in _pieces(tensors[name]):
            yield as_bytes(piece).numpy().data


def as_bytes(tensor: Tensor) -> Tensor:
    """The bytes ``(n,)`` of a tensor, in row-major order and on the CPU."""
    # The new last axis has stride 1; a single number's may be 0, which torch calls contiguous but does not view.
    return tensor.detach().cpu().contiguous().unsqueeze(-1).view(torch.uint8).view(-1)


def _pieces(tensor: Tensor) -> Iterator[Tensor]:
    """Split a tensor, in order, into parts of about ``CHUNK`` bytes, which may be non-contiguous views."""
    if tensor.numel() == 0:
        return
    if tensor.is_contiguous():
        yield from tensor.view(-1).split(CHUNK // tensor.element_size())
    elif tensor[0].nbytes > CHUNK:
        for row in tensor:
            yield from _pieces(row)
    else:
        yield from tensor.split(CHUNK // tensor[0].nbytes)


def load(path: Path) -> dict[str, Any]:
    """Load a file written by ``save``; tensors are on the CPU, arrays are numpy arrays.

    The suffix may be omitted: ``.safetensors``, which agents' ``save`` adds, or ``.zip``, as in SB3.

    Raises:
        PolicyKDError: the file is missing, truncated, or not a checkpoint of policykd.
    """
    endings = ("", ".safetensors", ".zip")
    found = (path.with_name(path.name + ending) for ending in endings if path.name)
    path = next((file for file in found if file.is_file()), path)
    if not path.is_file():
        beside = sorted(file.name for file in path.parent.glob("*"))
        raise PolicyKDError(f"checkpoint: there is no file {path}{nearest(path.name, beside)}")
    try:
        check_header(path)
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            if metadata.get("format") != FORMAT:
                raise PolicyKDError(f"checkpoint: {path} is not a checkpoint of policykd")
            state = _put_arrays(parse_json(metadata["state"]), file)
    except PolicyKDError:
        raise
    except Exception as error:  # a damaged file may raise anything
        if zipfile.is_zipfile(path):
            raise PolicyKDError(
                f"checkpoint: {path} is a zip, as SB3 and torch write them, not a checkpoint of policykd: load it with "
                "what wrote it, or as a teacher (Teacher.load, --teacher)"
            ) from None
        if _is_pickle(path):
            raise PolicyKDError(
                f"checkpoint: {path} is a pickle, as SB3 saves replay buffers, not a checkpoint of policykd: students "
                "learn from the buffer that SB3 loads (TeacherStudent.learn_from)"
            ) from None
        raise PolicyKDError(
            f"checkpoint: {path} is damaged or not a checkpoint of policykd ({type_and_text(error)})"
        ) from None
    if not isinstance(state, dict):
        raise PolicyKDError(f"checkpoint: {path} is damaged: it has no state")
    return state


def read_weights(path: str | Path) -> dict[str, Tensor]:
    """Read the tensors of any safetensors file.

    Raises:
        OSError, ValueError, SafetensorError: the file cannot be read.
    """
    check_header(Path(path))
    return safetensors.torch.load_file(path)


def _is_pickle(path: Path) -> bool:
    """Whether a file starts like a pickle of protocol 4 or 5; it is not unpickled."""
    with open(path, "rb") as file:
        return file.read(3) in (b"\x80\x04\x95", b"\x80\x05\x95")


def check_header(path: Path) -> None:
    """Refuse a safetensors file with an impossible header, before the library reads it.

    Raises:
        OSError, ValueError: the file cannot be read, or its header is too long.
    """
    if path.is_fifo():  # opening it would wait for a writer
        raise ValueError("it is not a file")
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
    if length > min(MOST_HEADER, path.stat().st_size):
        raise ValueError(f"its header would have {length:,} bytes")


@contextmanager
def content_errors(path: str | Path) -> Iterator[None]:
    """Report errors caused by a file with the right format and wrong content in one line.

    Raises:
        PolicyKDError: a value has the wrong type, a part is missing, or a shape does not fit.
    """
    try:
        yield
    except PolicyKDError as error:
        if not str(error).startswith("config: "):
            raise
        raise PolicyKDError(f"checkpoint: {path}: {str(error).removeprefix('config: ')}") from error
    except (OSError, NotImplementedError):
        raise
    except (LookupError, TypeError, ValueError, AttributeError, RuntimeError, ArithmeticError, MemoryError) as error:
        raise PolicyKDError(f"checkpoint: {path} cannot be loaded ({type_and_text(error)})") from error


def is_checkpoint(path: Path) -> bool:
    """Whether ``save`` wrote a file, whatever its suffix (SB3's callbacks use ``.zip``)."""
    try:
        with safe_open(path, "pt") as file:
            return (file.metadata() or {}).get("format") == FORMAT
    except (SafetensorError, OSError):
        return False


def _take_arrays(value: Any, name: str, tensors: dict[str, Tensor]) -> Any:
    """Convert ``value`` to JSON, moving its tensors and arrays to ``tensors`` under their path."""
    if isinstance(value, Tensor | np.ndarray):
        kind = "tensor" if isinstance(value, Tensor) else "array"
        name = f"{len(tensors)}{name}"  # a number distinguishes {"a/b": t} from {"a": {"b": t}}
        if isinstance(value, np.ndarray):
            value = torch.from_numpy(np.require(value, requirements=["C", "W"]))  # copied only if torch needs it
        tensors[name] = value.detach()
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
