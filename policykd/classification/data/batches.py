"""Batches from arrays, data sets or a user's loader, in an order determined by seed and epoch.

A batch is ``(inputs, labels, ...)``, a dict with labels under one of the names below, or inputs alone. Any other
structure needs an adaptor, a small function that the user supplies.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sized
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    Sampler,
    SequentialSampler,
    TensorDataset,
    default_collate,
)

from policykd.core.errors import PolicyKDError, one_line
from policykd.distillation.categorical import UNLABELLED
from policykd.memory.logged import LoggedStates

LABEL_NAMES = ("labels", "label", "targets", "target", "y")
Inputs = Any
"""A tensor, a tuple of positional arguments or a dict of named ones."""
Adaptor = Callable[[Any], tuple[Inputs, Tensor | None]]
"""Splits a batch into inputs and labels."""


class Batch(NamedTuple):
    """A batch as loaded, and the indices of its rows in the data (None: unknown, with a user's loader)."""

    content: Any
    rows: Tensor | None


class Rows(Dataset):
    """A data set read one batch at a time: arrays are indexed, other data sets are collated."""

    def __init__(self, source: Any) -> None:
        if isinstance(source, LoggedStates):
            states = source.checked()
            source = (states.observations,) if states.actions is None else states.dataset()
        if isinstance(source, TensorDataset):
            source = source.tensors
        self.arrays = _arrays(source) if _is_arrays(source) else None
        self.source = source
        by_row = isinstance(source, Sized) and hasattr(source, "__getitem__") and not isinstance(source, Mapping)
        if self.arrays is None and not by_row:
            raise PolicyKDError(
                f"data: a {type(source).__name__} is not arrays (inputs, labels), a Dataset or a DataLoader"
            )

    def __len__(self) -> int:
        return len(self.source if self.arrays is None else self.arrays[0])

    def __getitems__(self, rows: list[int]) -> Batch:
        """Read a batch."""
        index = torch.tensor(rows)
        if self.arrays is not None:
            return Batch(tuple(array[index] for array in self.arrays), index)
        examples = [self.source[row] for row in rows]
        try:
            return Batch(default_collate(examples), index)
        except (TypeError, RuntimeError) as error:
            raise PolicyKDError(
                f"data: examples cannot be collated, give a DataLoader with collate_fn: {one_line(error)}"
            ) from None


class Shuffled(Sampler[int]):
    """A permutation that depends on seed and epoch only, so that a resumed run sees the same order."""

    def __init__(self, length: int, seed: int) -> None:
        self.length, self.seed, self.epoch = length, seed, 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch that the next iteration belongs to."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.length

    def __iter__(self) -> Iterator[int]:
        generator = np.random.default_rng(np.random.SeedSequence((self.seed, self.epoch)))
        return iter(generator.permutation(self.length).tolist())


class Batches(BatchSampler):
    """Batches of a sampler; a final single example, which batch norm cannot use, is added to the batch before it.

    With several processes, which share every batch and pad the last one, no batch may be longer than the others.

    Args:
        order: sampler of row indices.
        batch_size: examples per batch.
        processes: number of processes that share each batch.
    """

    def __init__(self, order: Sampler[int], batch_size: int, processes: int) -> None:
        super().__init__(order, batch_size, drop_last=False)
        examples = len(order)  # type: ignore[arg-type]
        self.joins = processes == 1 and examples > batch_size > 1 and examples % batch_size == 1

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch that the next iteration belongs to."""
        if isinstance(self.sampler, Shuffled):
            self.sampler.set_epoch(epoch)

    def __len__(self) -> int:
        return super().__len__() - self.joins

    def __iter__(self) -> Iterator[list[int]]:
        batches = super().__iter__()
        if not self.joins:
            return batches
        *whole, before, last = batches
        return iter([*whole, [*before, *last]])


def loader(data: Any, batch_size: int, seed: int | None, what: str, processes: int = 1) -> DataLoader:
    """Make a ``DataLoader`` for any supported kind of data.

    Args:
        data: a tuple of arrays, tensors or data frames (inputs, labels), or inputs alone, also as lists of numbers;
            ``LoggedStates``; a map-style data set; or a ``DataLoader``, which is used as it is.
        batch_size: examples per batch.
        seed: seed of the shuffling; None keeps the order.
        what: name of the data in errors.
        processes: number of processes that share each batch.

    Raises:
        PolicyKDError: the data are empty or of an unsupported kind.
    """
    if isinstance(data, DataLoader):
        if isinstance(data.dataset, Sized) and not len(data):
            raise PolicyKDError(f"data: the {what} data are empty")
        return data
    rows = Rows(data)
    if not len(rows):
        raise PolicyKDError(f"data: the {what} data are empty")
    order = SequentialSampler(range(len(rows))) if seed is None else Shuffled(len(rows), seed)
    return DataLoader(rows, batch_sampler=Batches(order, batch_size, processes), collate_fn=identity)


def read(batch: Any) -> Batch:
    """A loader's batch with its row indices, if known."""
    return batch if isinstance(batch, Batch) else Batch(batch, None)


def split_batch(batch: Any) -> tuple[Inputs, Tensor | None]:
    """Split a batch into inputs and labels; labels are None if there are none.

    Raises:
        PolicyKDError: the batch has an unknown structure.
    """
    if isinstance(batch, Tensor):
        return batch, None
    if isinstance(batch, list | tuple) and batch:
        return batch[0], (batch[1] if len(batch) > 1 else None)
    if isinstance(batch, Mapping):
        name = next((name for name in LABEL_NAMES if name in batch), None)
        inputs = {key: value for key, value in batch.items() if key != name}
        only = next(iter(inputs.values())) if len(inputs) == 1 else inputs
        return only, (None if name is None else batch[name])
    raise PolicyKDError(
        f"data: a batch is a {type(batch).__name__}; give a tuple (inputs, labels), a dict, or an adaptor="
    )


def checked_labels(labels: Any, logits: Tensor) -> Tensor:
    """Validate labels for logits ``(B, C)``; returns ``(B,)`` int64, ``UNLABELLED`` for missing labels.

    Raises:
        PolicyKDError: they are not whole numbers in [0, C), one per example.
    """
    return check_all_labels(labels, *logits.shape).to(logits.device)


def check_all_labels(labels: Any, examples: int, classes: int) -> Tensor:
    """As ``checked_labels``, given the numbers of examples and classes."""
    if labels is None:
        return torch.full((examples,), UNLABELLED)
    _refuse_strings(labels)
    try:
        labels = torch.as_tensor(labels)
    except (TypeError, ValueError, RuntimeError) as error:
        raise PolicyKDError(f"labels: need one whole number per example, ({examples},): {one_line(error)}") from None
    if labels.is_floating_point() or labels.is_complex() or labels.shape != (examples,):
        raise PolicyKDError(
            f"labels: need one whole number per example, ({examples},), got {labels.dtype} {tuple(labels.shape)}"
        )
    labels = labels.long()
    wrong = labels[(labels != UNLABELLED) & ((labels < 0) | (labels >= classes))]
    if len(wrong):
        raise PolicyKDError(
            f"labels: {int(wrong[0])} is out of range for {classes} classes: use 0 to {classes - 1}, or {UNLABELLED} "
            "for no label"
        )
    return labels


@contextmanager
def seeded(*key: int) -> Iterator[None]:
    """Seed the global generators (dropout, augmentation inside a data set), and restore them afterwards."""
    python, numpy, seed = random.getstate(), np.random.get_state(), _seed(*key)
    with torch.random.fork_rng():
        random.seed(seed)
        np.random.seed(seed)
        torch.manual_seed(seed)
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)


@contextmanager
def reseeded(batches: DataLoader, *key: int) -> Iterator[None]:
    """Seed the generators of a user's loader and sampler from their initial seeds and the key, and restore them."""
    parts = (getattr(part, "generator", None) for part in (batches, batches.sampler, batches.batch_sampler))
    before = {part: part.get_state() for part in parts if isinstance(part, torch.Generator)}
    for generator in before:
        generator.manual_seed(_seed(generator.initial_seed(), *key))
    try:
        yield
    finally:
        for generator, state in before.items():
            generator.set_state(state)


def _seed(*key: int) -> int:
    return int(np.random.SeedSequence(key).generate_state(1)[0])


def _is_arrays(source: Any) -> bool:
    """Whether the source is arrays, data frames or numbers; a list of anything else is a data set of examples."""
    if isinstance(source, list):
        return all(isinstance(member, Tensor | np.ndarray) for member in source) or _are_numbers(source)
    return isinstance(source, tuple) or hasattr(source, "__array__")


def _are_numbers(source: Any) -> bool:
    """Whether a list, however nested, holds only numbers."""
    return isinstance(source, int | float) or (isinstance(source, list) and all(map(_are_numbers, source)))


def _arrays(source: Any) -> tuple[Tensor, ...]:
    """Arrays as tensors of equal length; float64 becomes float32, integers keep their type."""
    several = isinstance(source, tuple | list) and source and not _are_numbers(source)
    members = tuple(source) if several else (source,)
    for member in members[1:]:
        _refuse_strings(member)
    try:
        tensors = tuple(_tensor(member) for member in members)
    except (TypeError, ValueError, RuntimeError) as error:
        raise PolicyKDError(f"data: expected arrays (inputs, labels): {one_line(error)}") from None
    lengths = [len(tensor) if tensor.ndim else 0 for tensor in tensors]
    if len(set(lengths)) > 1:
        raise PolicyKDError(f"data: inputs and labels differ in length: {lengths}")
    return tuple(tensor.float() if tensor.dtype == torch.float64 else tensor for tensor in tensors)


def _tensor(member: Any) -> Tensor:
    """An array as a tensor, sharing memory if torch can, otherwise copied (as data frames are)."""
    if hasattr(member, "toarray") or (isinstance(member, Tensor) and member.layout != torch.strided):
        raise TypeError("sparse arrays cannot be read by rows: give to_dense() of a tensor, toarray() of a matrix")
    if isinstance(member, Mapping):
        raise TypeError("a dict has no rows: give a list or a Dataset of examples that are dicts, or a DataLoader")
    if isinstance(member, Tensor) or not hasattr(member, "__array__"):
        return torch.as_tensor(member)
    array = member if isinstance(member, np.ndarray) else np.array(member)
    if array.dtype == object:  # columns of mixed types, such as bool beside float
        array = np.array(array.tolist())
    if not array.dtype.isnative or min(array.strides, default=0) < 0:
        array = array.astype(array.dtype.newbyteorder("="), order="C")
    return torch.as_tensor(array)


def _refuse_strings(labels: Any) -> None:
    first = None if isinstance(labels, Tensor) else next(iter(np.asarray(labels).ravel()[:1]), None)
    if isinstance(first, str | bytes):
        raise PolicyKDError(
            f"labels: {str(first)!r} is a string: number the classes in the order of the networks' outputs, as "
            "numpy.unique(labels, return_inverse=True)[1] does alphabetically"
        )


def identity(batch: Any) -> Any:
    """A collate function for data that are batches already."""
    return batch
