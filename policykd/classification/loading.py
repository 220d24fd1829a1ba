"""Batches out of arrays, data sets or the user's own loader, in an order that a seed and the pass decide."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sized
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler, TensorDataset, default_collate

from policykd.core.errors import PolicyKDError


class Batch(NamedTuple):
    """A batch as the data gave it, and which rows of the data it holds (None: the user's loader does not say)."""

    content: Any
    rows: Tensor | None


class Rows(Dataset):
    """A data set that is read a batch at a time; arrays are indexed, other sets are collated."""

    def __init__(self, source: Any) -> None:
        if isinstance(source, TensorDataset):
            source = source.tensors
        self.arrays = _arrays(source) if _is_arrays(source) else None
        self.source = source
        if self.arrays is None and not (isinstance(source, Sized) and hasattr(source, "__getitem__")):
            raise PolicyKDError(
                f"data: a {type(source).__name__} is neither arrays (inputs, labels), a Dataset nor a DataLoader"
            )

    def __len__(self) -> int:
        return len(self.source if self.arrays is None else self.arrays[0])

    def __getitems__(self, rows: list[int]) -> Batch:
        """The batch of these rows."""
        index = torch.tensor(rows)
        if self.arrays is None:
            return Batch(default_collate([self.source[row] for row in rows]), index)
        return Batch(tuple(array[index] for array in self.arrays), index)


class Shuffled(Sampler[int]):
    """Every row once, in an order of the seed and the pass alone: a resumed run sees what it would have seen."""

    def __init__(self, length: int, seed: int) -> None:
        self.length, self.seed, self.epoch = length, seed, 0

    def set_epoch(self, epoch: int) -> None:
        """Say which pass comes next."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.length

    def __iter__(self) -> Iterator[int]:
        generator = np.random.default_rng(np.random.SeedSequence((self.seed, self.epoch)))
        return iter(generator.permutation(self.length).tolist())


def loader(data: Any, batch_size: int, seed: int | None, what: str) -> DataLoader:
    """Batches of some data.

    Args:
        data: a tuple of arrays or tensors (inputs, labels), a map-style data set, or a ``DataLoader``, which is used
            as it is.
        batch_size: examples per batch.
        seed: of the order; None keeps the order.
        what: the data's name in errors.

    Raises:
        PolicyKDError: there is nothing in it, or it is something else.
    """
    if isinstance(data, DataLoader):
        if isinstance(data.dataset, Sized) and not len(data):
            raise PolicyKDError(f"data: the {what} data are empty")
        return data
    rows = Rows(data)
    if not len(rows):
        raise PolicyKDError(f"data: the {what} data are empty")
    order = None if seed is None else Shuffled(len(rows), seed)
    return DataLoader(rows, batch_size, sampler=order, collate_fn=_as_it_is)


def read(batch: Any) -> Batch:
    """A loader's batch with its rows, where they are known."""
    return batch if isinstance(batch, Batch) else Batch(batch, None)


@contextmanager
def seeded(*key: int) -> Iterator[None]:
    """Seed the global generators (dropout, a data set's own augmentation), and put them back afterwards."""
    python, numpy = random.getstate(), np.random.get_state()
    seed = int(np.random.SeedSequence(key).generate_state(1)[0])
    with torch.random.fork_rng():
        random.seed(seed)
        np.random.seed(seed)
        torch.manual_seed(seed)
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)


def _is_arrays(source: Any) -> bool:
    """Whether this is arrays; a list of anything else is a data set of examples."""
    if isinstance(source, list):
        return all(isinstance(member, Tensor | np.ndarray) for member in source)
    return isinstance(source, tuple | Tensor | np.ndarray)


def _arrays(source: Any) -> tuple[Tensor, ...]:
    """Arrays as tensors of one length; floats as float32, whole numbers as they are."""
    members = tuple(source) if isinstance(source, tuple | list) else (source,)
    try:
        tensors = tuple(torch.as_tensor(member) for member in members)
    except (TypeError, ValueError, RuntimeError) as error:
        raise PolicyKDError(f"data: expected arrays (inputs, labels): {error}") from None
    lengths = [len(tensor) if tensor.ndim else 0 for tensor in tensors]
    if len(set(lengths)) > 1:
        raise PolicyKDError(f"data: inputs and labels differ in length: {lengths}")
    return tuple(tensor.float() if tensor.dtype == torch.float64 else tensor for tensor in tensors)


def _as_it_is(batch: Any) -> Any:
    return batch
