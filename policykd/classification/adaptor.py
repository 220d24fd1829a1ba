"""Reads batches and model outputs of the usual structures; another structure needs one small function of the user.

A batch is ``(inputs, labels, ...)``, a dict with labels under one of the names below, or inputs alone. An output is a
tensor of logits, a tuple that begins with it, or a dict or object with ``logits`` (as Hugging Face's models return).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from policykd.core.errors import PolicyKDError
from policykd.distillation.categorical import UNLABELLED

LABEL_NAMES = ("labels", "label", "targets", "target", "y")
Inputs = Any
"""A tensor, a tuple of positional arguments or a dict of named ones."""
Adaptor = Callable[[Any], tuple[Inputs, Tensor | None]]
"""Splits a batch into inputs and labels."""


def split_batch(batch: Any) -> tuple[Inputs, Tensor | None]:
    """Inputs and labels of a batch; labels are None where it has none.

    Raises:
        PolicyKDError: a structure that is not known.
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


def call(model: nn.Module, inputs: Inputs) -> Tensor:
    """The model's logits ``(B, C)`` for some inputs.

    Raises:
        PolicyKDError: the output holds no logits ``(B, C)``.
    """
    if isinstance(inputs, Mapping):
        output = model(**inputs)
    else:
        output = model(*inputs) if isinstance(inputs, list | tuple) else model(inputs)
    if isinstance(output, Mapping):
        output = output.get("logits")
    elif not isinstance(output, Tensor):
        first = output[0] if isinstance(output, list | tuple) and output else None
        output = getattr(output, "logits", first)
    if not isinstance(output, Tensor) or output.ndim != 2:
        shape = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
        raise PolicyKDError(
            f"model: {type(model).__name__} must return logits (B, C), alone or as .logits; got {shape}"
        )
    return output


def checked_labels(labels: Any, logits: Tensor) -> Tensor:
    """Labels as ``(B,)`` int64, ``UNLABELLED`` where there are none, for logits ``(B, C)``.

    Raises:
        PolicyKDError: they are not whole numbers in [0, C), one per example.
    """
    (examples, classes), device = logits.shape, logits.device
    if labels is None:
        return torch.full((examples,), UNLABELLED, device=device)
    labels = torch.as_tensor(labels, device=device)
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
