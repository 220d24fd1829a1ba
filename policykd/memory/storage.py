"""What holds a replay's rows beside plain memory: half precision, and a file."""

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
    """Rows ``(n, width)`` in halves; the last three numbers as they are, each in the place of two: ``(n, width + 3)``.

    Raises:
        PolicyKDError: an observation is beyond what a half can hold.
    """
    halves = rows[:, :-3].half()
    if halves.abs().max().item() == math.inf:
        most = rows[:, :-3].abs().max().item()
        raise PolicyKDError(
            f"replay: an observation of {most:.6g} is beyond float16, which ends at 65,504: scale observations, "
            'or set buffer_dtype="float32"'
        )
    return torch.cat((halves, rows.view(torch.float16)[:, -6:]), dim=1)


def unpacked(rows: Tensor) -> Tensor:
    """What ``packed`` made of rows, in float32; ``(..., width + 3)`` to ``(..., width)``."""
    whole = rows[..., -6:].clone(memory_format=torch.contiguous_format).view(torch.float32)
    return torch.cat((rows[..., :-6].float(), whole), dim=-1)


def on_disk(shape: tuple[int, ...], dtype: np.dtype, folder: Path) -> np.ndarray:
    """Zeros in an unnamed file, which the system deletes when this process ends; memory only caches its pages.

    Raises:
        PolicyKDError: the file cannot be made, or the disk has no room for all of it.
    """
    nbytes = dtype.itemsize * math.prod(shape)
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            # Room for all of it now, or a full disk would kill the process at a later write (SIGBUS).
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(file.fileno(), 0, nbytes)
            else:  # macOS
                for start in range(0, nbytes, CHUNK):
                    file.write(bytes(min(CHUNK, nbytes - start)))
            return np.memmap(file, dtype, "r+", shape=shape)
    except (OSError, OverflowError) as error:  # the second: of more bytes than any file has
        why = getattr(error, "strerror", error)
        raise PolicyKDError(
            f"replay: {folder} cannot hold {nbytes / 1e9:,.1f} GB of transitions ({why}): lower buffer_size"
        ) from None
