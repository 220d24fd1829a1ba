"""Rebuilds the tensors of a ``torch.save`` file from their bytes, without torch's own reader.

The file holds a pickle, which describes how tensors lie in storages, and the storages' bytes.
"""

from __future__ import annotations

import io
import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from policykd.core.archives import Archive
from policykd.teachers.pickles import PERSISTENT, Call, Name, load

MAGIC = 0x1950A86A20F9469CFC6C
"""Magic number of files from before torch 1.6."""
PICKLE_BYTES = 4_000_000
"""Maximum size of the pickle alone, which holds names and shapes."""
STORAGES = {
    Name("torch", f"{name}Storage"): np.dtype(f"<{code}")
    for name, code in (("Float", "f4"), ("Double", "f8"), ("Half", "f2"), ("Long", "i8"), ("Int", "i4"), ("Byte", "u1"))
}
_TENSOR, _PARAMETER = Name("torch._utils", "_rebuild_tensor_v2"), Name("torch._utils", "_rebuild_parameter")
_NAMES = {*STORAGES, _TENSOR, _PARAMETER, Name("collections", "OrderedDict")}


def read_tensors(content: bytes) -> dict[str, Tensor]:
    """Read a state dict.

    Args:
        content: what ``torch.save`` wrote: a zip, or, before torch 1.6, pickles and then bytes.

    Raises:
        Exception: of any kind, if it is damaged or holds anything but tensors by name.
    """
    described, data = _read_zip(content) if content.startswith(b"PK") else _read_old(content)
    storages = {
        key: torch.from_numpy(np.frombuffer(bytearray(data[key]), STORAGES[kind]))
        for kind, key in map(_storage, described.values())
    }
    return {name: _tensor(value, storages) for name, value in described.items()}


Described = tuple[dict[str, Call], dict[str, bytes]]
"""The description of each tensor, by name, and the bytes of each storage, by key."""


def _read_zip(content: bytes) -> Described:
    with Archive(content) as archive:
        (pickle,) = (name for name in archive.names if name.endswith("/data.pkl"))
        root = pickle.removesuffix("data.pkl")
        if f"{root}byteorder" in archive.names and archive.read(f"{root}byteorder", 100) != b"little":
            raise ValueError("it was written on a big-endian machine")
        described = _described(load(io.BytesIO(archive.read(pickle, PICKLE_BYTES)), _check))
        keys = {key for _, key in map(_storage, described.values())}
        return described, {key: archive.read(f"{root}data/{key}") for key in keys}


def _read_old(content: bytes) -> Described:
    file = io.BytesIO(content)
    magic, _, _, found, keys = (load(file, _check) for _ in range(5))
    if magic != MAGIC:
        raise ValueError("it is not what torch.save writes")
    described = _described(found)
    kinds = {key: kind for kind, key in map(_storage, described.values())}
    sizes = {key: STORAGES[kind].itemsize for key, kind in kinds.items()}
    return described, {key: file.read(int.from_bytes(file.read(8), "little") * sizes[key]) for key in keys}


def _check(name: Name) -> None:
    if name not in _NAMES:
        raise ValueError(f"it asks for {name.module}.{name.name}, which no tensor needs (trust=True runs it)")


def _described(found: Any) -> dict[str, Call]:
    """The calls that rebuild tensors, by the tensors' names."""
    tensors = {}
    for name, value in (found.items if isinstance(found, Call) else dict(found)).items():
        if isinstance(value, Call) and value.function == _PARAMETER:
            value = value.arguments[0]
        if not isinstance(value, Call) or value.function != _TENSOR:
            raise ValueError(f"{name} is not a tensor")
        tensors[name] = value
    return tensors


def _storage(tensor: Call) -> tuple[Name, str]:
    """Type and key of a tensor's storage."""
    storage = tensor.arguments[0]
    if not isinstance(storage, Call) or storage.function != PERSISTENT:
        raise ValueError("a tensor without a storage")
    _, kind, key, *_ = storage.arguments[0]
    return kind, key


def _tensor(call: Call, storages: dict[str, Tensor]) -> Tensor:
    """Build a tensor from its description and storage."""
    _, offset, size, stride = call.arguments[:4]
    storage = storages[_storage(call)[1]]
    if not all(type(number) is int and number >= 0 for number in (offset, *size, *stride)):
        raise ValueError("a tensor of impossible shape")
    if math.prod(size) > len(storage):
        raise ValueError(f"a tensor of shape {size} in a storage of {len(storage)} numbers")
    return storage.as_strided(size, stride, offset)  # checks its bounds
