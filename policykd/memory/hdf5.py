"""Safe reading of arrays from HDF5 files: no external links, and a bounded unpacked size."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from policykd.core.archives import RATIO, SPARE
from policykd.core.errors import PolicyKDError
from policykd.core.extras import import_extra
from policykd.core.memory import require_memory


def read_hdf5(path: Path, names: Sequence[str], beside: Sequence[str]) -> dict[str, np.ndarray]:
    """Read D4RL's top-level arrays, or Minari's groups ``episode_<n>``, whose last observation has no action.

    Args:
        path: the file.
        names: arrays to read if present.
        beside: further arrays to read if present, ignored if they are not arrays, such as a single number.

    Raises:
        PolicyKDError, OSError, ValueError: the file cannot be read, has none of them, or they are not numeric arrays.
    """
    h5py = import_extra("h5py", "offline")
    with h5py.File(path, "r") as file:
        if "observations" in file:
            found = [name for name in names if name in file]
            found += [name for name in beside if name in file and getattr(file[name], "shape", None)]
            return dict(zip(found, _read(file, found, path), strict=True))
        episodes = sorted((name for name in file if re.fullmatch(r"episode_\d+", name)), key=lambda name: int(name[8:]))
        if not episodes:
            raise PolicyKDError(f"states: {path} has neither observations nor episodes of Minari")
        parts = _read(file, [f"{name}/{part}" for part in ("actions", "observations") for name in episodes], path)
    actions = parts[: len(episodes)]
    states = [part[: len(done)] for part, done in zip(parts[len(episodes) :], actions, strict=True)]
    numbers = np.repeat(np.arange(len(states)), [len(part) for part in states])
    return {"observations": np.concatenate(states), "actions": np.concatenate(actions), "episodes": numbers}


def _read(file: Any, names: list[str], path: Path) -> list[np.ndarray]:
    """Read arrays whose total size is within the limit for a zip of the file's size."""
    found = [_array(file, name) for name in names]
    nbytes = sum(array.size * array.dtype.itemsize for array in found)
    if nbytes > SPARE + RATIO * path.stat().st_size:
        raise ValueError(f"{', '.join(names[:3])} unpack to {nbytes:,} bytes, more than allowed")
    require_memory(nbytes, f"{', '.join(names[:3])} of {path}", "a part of the file")
    return [array[()] for array in found]


def _array(file: Any, name: str) -> Any:
    """An array stored in the HDF5 file itself, not in another file it links to."""
    h5py = import_extra("h5py", "offline")
    parts = name.split("/")
    for depth in range(len(parts)):
        if not isinstance(file.get("/".join(parts[: depth + 1]), getlink=True), h5py.HardLink):
            raise ValueError(f"{name} is missing, or a link to another file")
    found = file[name]
    numbers = isinstance(found, h5py.Dataset) and found.shape and found.dtype.kind in "fiub"
    if not numbers or found.external or found.is_virtual:
        raise ValueError(f"{name} is not an array of numbers")
    return found
