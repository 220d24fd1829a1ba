"""Training data that would only fail, or teach nothing, later are refused before anything is trained."""

from __future__ import annotations

import math
from collections.abc import Sized
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import BatchSampler, DataLoader, RandomSampler, SequentialSampler, TensorDataset, default_collate

from policykd.classification.data.batches import Adaptor, Batches, Inputs, Rows, split_batch, whole_labels
from policykd.core.errors import PolicyKDError, telling
from policykd.distillation.categorical import UNLABELLED

MOST = 2**18
"""Entries by which an array is known again, in rows at even distances: a large one may lie on the disk."""


def split(adaptor: Adaptor, content: Any) -> tuple[Inputs, Any]:
    """Inputs and labels of a batch, by an adaptor that may be a user's own.

    Raises:
        PolicyKDError: it fails, or gives no pair.
    """
    with telling(
        f"adaptor: must give (inputs, labels) of each batch that it is asked about, here a {_told(content)}: "
    ):
        inputs, labels = adaptor(content)
    return inputs, labels


def _told(content: Any) -> str:
    return f"{type(content).__name__} of {len(content)}" if isinstance(content, Sized) else type(content).__name__


def check_batches(
    batches: DataLoader,
    adaptor: Adaptor,
    labels: Any,
    logits: Tensor,
    learning: nn.Module,
    labelled: bool,
    taught: bool,
) -> None:
    """Refuse training data that would only fail, or teach nothing, later.

    Args:
        batches: the training data; labels that lie in memory are looked at as a whole.
        adaptor: splits a batch into inputs and labels.
        labels: of the first batch, which stand for all where these must be read one by one.
        logits: of the student for the first batch.
        learning: all modules that learn.
        labelled: whether the loss looks at labels.
        taught: whether it looks at a teacher.

    Raises:
        PolicyKDError: labels are not classes, all of one, or all missing; or a batch of one example meets batch
            normalisation.
    """
    arrays = _in_memory(batches) if adaptor is split_batch else None
    if arrays is None:
        whole_labels(labels, *logits.shape)
    else:
        labels = split_batch(arrays)[1]
        known = whole_labels(labels, len(arrays[0]), logits.shape[1])
        present = known[known != UNLABELLED].unique()
        if labels is not None and not len(present) and not taught:
            raise PolicyKDError(f"labels: all are {UNLABELLED}, no label, and this method learns from labels alone")
        if labelled and labels is not None and len(present) == 1:
            raise PolicyKDError(f"labels: all examples are of class {int(present)}: there is nothing to tell apart")
    normalised = any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in learning.modules())
    if normalised and _has_batch_of_one(batches):
        raise PolicyKDError(
            "batch_size: the last batch is one example, which batch normalisation cannot learn from: choose another "
            "batch_size, or drop_last=True in the DataLoader"
        )


def _in_memory(batches: DataLoader) -> tuple[Tensor, ...] | None:
    """All the arrays of which a loader makes its batches; None where a sampler or a function of the user's decides."""
    rows, order = batches.dataset, batches.batch_sampler
    if isinstance(rows, Rows):
        return rows.arrays
    plain = type(order) is BatchSampler and isinstance(order.sampler, RandomSampler | SequentialSampler)
    return rows.tensors if isinstance(rows, TensorDataset) and plain and batches.collate_fn is default_collate else None


def outline(batches: DataLoader) -> dict[str, Any]:
    """What a resumed run knows its data by: number of rows and, of arrays, their shapes and a sum of weighted entries.

    Data that are read one by one, which may augment inside, are known by their number alone, if that.
    """
    rows, arrays = batches.dataset, _in_memory(batches) or ()
    return {
        "rows": len(rows) if isinstance(rows, Sized) else None,
        "shapes": [list(array.shape) for array in arrays],
        "sums": [_weighted_sum(array) for array in arrays],
    }


def _weighted_sum(array: Tensor) -> float:
    entries = array[:: 1 + array.numel() // MOST].double().nan_to_num(0.0, 0.0, 0.0).reshape(-1)
    return float(
        entries @ torch.arange(1, len(entries) + 1).to(entries).sin()
    )  # of rows in another order it is another


def check_same(what: str, was: dict[str, Any], now: dict[str, Any]) -> None:
    """Refuse to go on with other data; sums may differ by what another machine rounds otherwise.

    Raises:
        PolicyKDError: the outlines differ.
    """
    how, known = "", "shapes" if was["sums"] and now["sums"] else "rows"
    if was[known] != now[known] and None not in (was[known], now[known]):
        how = f"{known} {was[known]} then, {now[known]} now"
    elif known == "shapes":
        same = all(math.isclose(a, b, rel_tol=1e-4) for a, b in zip(was["sums"], now["sums"], strict=True))
        how = "" if same else "as many, but others"
    if how:
        raise PolicyKDError(f"resume: the {what} data are not the run's ({how}): give the same, or begin a new run")


def _has_batch_of_one(batches: DataLoader) -> bool:
    sampler = batches.batch_sampler
    if not isinstance(sampler, BatchSampler) or not isinstance(sampler.sampler, Sized):
        return False
    joins = isinstance(sampler, Batches) and sampler.joins
    return sampler.batch_size == 1 or (len(sampler.sampler) % sampler.batch_size == 1 and not joins | sampler.drop_last)
