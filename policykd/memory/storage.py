"""Compact and on-disk storage of a replay's rows: float16, and a file."""

from __future__ import annotations

import math
import os
import tempfile
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from policykd.core.errors import PolicyKDError

CHUNK = 2**22
"""Bytes written at a time."""


def packed(rows: Tensor) -> Tensor:
    """Convert rows ``(n, width)`` to float16 ``(n, width + 3)``; the last three stay float32, in two columns each.

    Raises:
        PolicyKDError: an observation is out of float16's range.
    """
    halves = rows[:, :-3].half()
    if halves.abs().max().item() == math.inf:
        most = rows[:, :-3].abs().max().item()
        raise PolicyKDError(
            f"replay: an observation of {most:.6g} exceeds the maximum of float16, 65,504: scale observations, "
            'or set buffer_dtype="float32"'
        )
    return torch.cat((halves, rows.view(torch.float16)[:, -6:]), dim=1)


def unpacked(rows: Tensor) -> Tensor:
    """The inverse of ``packed``: ``(..., width + 3)`` to float32 ``(..., width)``."""
    whole = rows[..., -6:].clone(memory_format=torch.contiguous_format).view(torch.float32)
    return torch.cat((rows[..., :-6].float(), whole), dim=-1)


def on_disk(shape: tuple[int, ...], dtype: np.dtype, folder: Path) -> np.ndarray:
    """Zeros in an unnamed memory-mapped file, which the system deletes when this process ends.

    Raises:
        PolicyKDError: the file cannot be created, or the disk has too little space.
    """
    nbytes = dtype.itemsize * math.prod(shape)
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            # Allocate all of it now: otherwise a full disk would kill the process at a later write (SIGBUS).
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(file.fileno(), 0, nbytes)
            else:  # macOS
                for start in range(0, nbytes, CHUNK):
                    file.write(bytes(min(CHUNK, nbytes - start)))
            return np.memmap(file, dtype, "r+", shape=shape)
    except (OSError, OverflowError) as error:  # OverflowError: larger than any file can be
        why = getattr(error, "strerror", error)
        raise PolicyKDError(
            f"replay: {folder} cannot hold {nbytes / 1e9:,.1f} GB of transitions ({why}): lower buffer_size"
        ) from None
