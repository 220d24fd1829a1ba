"""Augmentation of training batches: a user's function, and mixup."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from policykd.classification.data.batches import Inputs
from policykd.core.errors import PolicyKDError

Augment = Callable[[Tensor], Tensor]
"""Augments a batch of inputs; may draw from torch's global generator, which is reseeded before every epoch."""


def augmented(inputs: Inputs, augment: Augment | None, mixup: float) -> Inputs:
    """Apply ``augment``, then mixup (Zhang et al. 2018) if ``mixup`` is above 0.

    Args:
        inputs: ``(B, ...)``.
        augment: the user's function, if any.
        mixup: alpha of the Beta(alpha, alpha) distribution of the mixing coefficients.

    Raises:
        PolicyKDError: the inputs are not one tensor, or ``augment`` does not return a tensor of as many inputs.
    """
    if augment is None and mixup == 0:
        return inputs
    if not isinstance(inputs, Tensor):
        raise PolicyKDError(f"augment: mixup and augment= need inputs that are one tensor, got {type(inputs).__name__}")
    if augment is not None:
        examples, inputs = len(inputs), augment(inputs)
        if not isinstance(inputs, Tensor) or len(inputs) != examples:
            got = tuple(inputs.shape) if isinstance(inputs, Tensor) else type(inputs).__name__
            raise PolicyKDError(f"augment: must return a tensor of {examples} inputs, as it was given; got {got}")
    if mixup > 0:
        share = float(torch.distributions.Beta(mixup, mixup).sample())
        inputs = share * inputs + (1 - share) * inputs[torch.randperm(len(inputs), device=inputs.device)]
    return inputs
