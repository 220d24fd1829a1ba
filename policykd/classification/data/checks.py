"""Checks of training data, before anything is trained."""

from __future__ import annotations

import math
from collections.abc import Sized
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import BatchSampler, DataLoader, RandomSampler, SequentialSampler, TensorDataset, default_collate

from policykd.classification.data.batches import Adaptor, Batches, Inputs, Rows, check_all_labels, split_batch
from policykd.core.errors import PolicyKDError, reraise
from policykd.distillation.categorical import UNLABELLED

MOST = 2**18
"""Most entries of an array that its checksum reads, in evenly spaced rows: a large array may be on disk."""


def split(adaptor: Adaptor, content: Any) -> tuple[Inputs, Any]:
    """Split a batch into inputs and labels with an adaptor, which may be the user's.

    Raises:
        PolicyKDError: the adaptor fails, or does not return a pair.
    """
    with reraise(f"adaptor: must return (inputs, labels) for each batch, here a {_describe(content)}: "):
        inputs, labels = adaptor(content)
    return inputs, labels


def _describe(content: Any) -> str:
    return f"{type(content).__name__} of {len(content)}" if isinstance(content, Sized) else type(content).__name__


def check_batches(
    batches: DataLoader,
    adaptor: Adaptor,
    labels: Any,
    logits: Tensor,
    learning: nn.Module,
    labelled: bool,
    needs_labels: bool,
) -> None:
    """Refuse training data that would fail later, or from which nothing can be learned.

    Args:
        batches: the training data; all labels are checked if they are in memory.
        adaptor: splits a batch into inputs and labels.
        labels: labels of the first batch; only these are checked if the data are read one by one.
        logits: the student's logits for the first batch.
        learning: a module that contains all trained modules.
        labelled: whether the loss uses labels.
        needs_labels: whether the student, or a helper, can learn from labels only.

    Raises:
        PolicyKDError: labels are not classes, all the same, or all missing; or batch norm would get a batch of one
            example.
    """
    arrays = _in_memory(batches) if adaptor is split_batch else None
    if arrays is None:
        check_all_labels(labels, *logits.shape)
    else:
        labels = split_batch(arrays)[1]
        known = check_all_labels(labels, len(arrays[0]), logits.shape[1])
        present = known[known != UNLABELLED].unique()
        if labels is not None and not len(present) and needs_labels:
            raise PolicyKDError(
                f"labels: all are {UNLABELLED} (unlabelled), but this method needs labels: give some, or use hinton "
                "without warm_up_epochs, which then learns from the teacher alone"
            )
        if labelled and labels is not None and len(present) == 1:
            raise PolicyKDError(f"labels: all examples are of class {int(present)}: at least two classes are needed")
    normalised = any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in learning.modules())
    if normalised and _has_batch_of_one(batches):
        raise PolicyKDError(
            "batch_size: the last batch has one example, too few for batch normalisation: choose another "
            "batch_size, or drop_last=True in the DataLoader"
        )


def _in_memory(batches: DataLoader) -> tuple[Tensor, ...] | None:
    """The arrays behind a loader's batches; None if a user's sampler or collate function makes the batches."""
    rows, order = batches.dataset, batches.batch_sampler
    if isinstance(rows, Rows):
        return rows.arrays
    plain = type(order) is BatchSampler and isinstance(order.sampler, RandomSampler | SequentialSampler)
    return rows.tensors if isinstance(rows, TensorDataset) and plain and batches.collate_fn is default_collate else None


def data_fingerprint(batches: DataLoader) -> dict[str, Any]:
    """What identifies the data of a resumed run: the number of rows and, for arrays, shapes and a weighted sum.

    Data read one by one, which may be augmented on reading, are identified by their length, if that is known.
    """
    rows, arrays = batches.dataset, _in_memory(batches) or ()
    return {
        "rows": len(rows) if isinstance(rows, Sized) else None,
        "shapes": [list(array.shape) for array in arrays],
        "sums": [_weighted_sum(array) for array in arrays],
    }


def _weighted_sum(array: Tensor) -> float:
    entries = array[:: 1 + array.numel() // MOST].double().nan_to_num(0.0, 0.0, 0.0).reshape(-1)
    weights = torch.arange(1, len(entries) + 1).to(entries).sin()  # so that the order counts
    return float(entries @ weights)


def check_same(what: str, was: dict[str, Any], now: dict[str, Any]) -> None:
    """Refuse to resume with other data; sums may differ by rounding, as between machines.

    Raises:
        PolicyKDError: the outlines differ.
    """
    how, known = "", "shapes" if was["sums"] and now["sums"] else "rows"
    if was[known] != now[known] and None not in (was[known], now[known]):
        how = f"{known} {was[known]} then, {now[known]} now"
    elif known == "shapes":
        same = all(math.isclose(a, b, rel_tol=1e-4) for a, b in zip(was["sums"], now["sums"], strict=True))
        how = "" if same else "as many examples, but different ones"
    if how:
        raise PolicyKDError(
            f"resume: the {what} data differ from the run's ({how}): give the same data, or start a new run"
        )


def _has_batch_of_one(batches: DataLoader) -> bool:
    sampler = batches.batch_sampler
    if not isinstance(sampler, BatchSampler) or not isinstance(sampler.sampler, Sized):
        return False
    joins = isinstance(sampler, Batches) and sampler.joins
    return sampler.batch_size == 1 or (len(sampler.sampler) % sampler.batch_size == 1 and not joins | sampler.drop_last)
