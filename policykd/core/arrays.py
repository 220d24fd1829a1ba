"""Numbers of environments as they come: NumPy arrays, or tensors that stay on their device."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

Array = np.ndarray | Tensor


def as_tensor(array: Array, device: torch.device | str) -> Tensor:
    """The same numbers on a device; not copied where they are there already."""
    return (torch.from_numpy(array) if isinstance(array, np.ndarray) else array).to(device)


def as_numpy(array: Array) -> np.ndarray:
    """The same numbers in NumPy; not copied where the processor can read them."""
    return array if isinstance(array, np.ndarray) else array.detach().cpu().numpy()
