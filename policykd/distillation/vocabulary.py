"""One vocabulary of losses for policies and classifiers: how far apart two answers are, by what the answers are.

An answer is that of policies at states, ``PolicyOutput`` with tensors ``(K, B, .)``, or of a classifier for examples,
with logits ``(B, C)``. A divergence compares two answers of one kind, categoricals where there are logits, Gaussians or
deterministic actions elsewhere, and returns one number per state or example, ``(K, B)`` or ``(B,)``. Any function that
does so is a divergence. Weights (``weights``) and schedules (``schedules``) are those of both modes, too.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor

from policykd.core.errors import PolicyKDError, nearest
from policykd.distillation import categorical, divergences

A = TypeVar("A")
Divergence = Callable[[Any, Any], Tensor]
"""Distance of an answer from the one to copy."""


def kl_forward(own: Any, target: Any) -> Tensor:
    """KL(target || own), which covers the target's mass; Hinton's and Rusu's divergence of categoricals."""
    if _categorical(own, target):
        return categorical.categorical_kl(own.logits, target.logits)
    return divergences.gaussian_kl(*_gaussians(own, target), "forward")


def kl_reverse(own: Any, target: Any) -> Tensor:
    """KL(own || target), which seeks the target's mode."""
    if _categorical(own, target):
        return categorical.categorical_kl(target.logits, own.logits)
    return divergences.gaussian_kl(*_gaussians(own, target), "reverse")


def nll(own: Any, target: Any) -> Tensor:
    """Negative log-likelihood of what the target would do: its likeliest class, or its mean action."""
    if _categorical(own, target):
        return categorical.categorical_nll(own.logits, target.logits)
    return divergences.gaussian_nll(*_gaussians(own, target)[:3])


def mse(own: Any, target: Any) -> Tensor:
    """Squared Euclidean distance of logits (or Q-values), or of actions."""
    if _categorical(own, target):
        return categorical.logits_mse(own.logits, target.logits)
    return divergences.action_mse(own.actions, target.actions)


VOCABULARY: dict[str, Divergence] = {"kl_forward": kl_forward, "kl_reverse": kl_reverse, "nll": nll, "mse": mse}
"""What settings name. The first, third and fourth are the three losses of Rusu et al. 2015 for categoricals."""


def find_divergence(divergence: str | Divergence) -> Divergence:
    """A divergence by its name, or the user's own function.

    Raises:
        PolicyKDError: there is none of that name, or it is no function.
    """
    if callable(divergence):
        return divergence
    if not isinstance(divergence, str) or divergence not in VOCABULARY:
        raise PolicyKDError(
            f"divergence: {divergence!r} is unknown{nearest(str(divergence), VOCABULARY)}; there are "
            f"{', '.join(VOCABULARY)}, or a function of two answers"
        )
    return VOCABULARY[divergence]


def softened(answer: A, temperature: float) -> A:
    """The answer with its logits divided by a temperature: above 1 softer, below 1 sharper (0.01 for Q-values).

    Raises:
        PolicyKDError: it has no logits, and the temperature is not 1.
    """
    logits = getattr(answer, "logits", None)
    if temperature == 1:
        return answer
    if logits is None:
        raise PolicyKDError(f"temperature: {temperature} softens logits, and these answers have none: use 1")
    return answer._replace(logits=logits / temperature)  # type: ignore[attr-defined]


def distance(
    own: A, target: A, divergence: Divergence = kl_forward, temperature: float = 1.0, weight: Tensor | None = None
) -> Tensor:
    """T^2 * w * D of two answers at a temperature, for each state ``(K, B)`` or example ``(B,)``.

    The gradient of a divergence of softened logits falls as 1/T^2; the factor keeps its size (Hinton et al. 2015).

    Args:
        own: the answer that learns.
        target: the answer to copy.
        divergence: D.
        temperature: T of both.
        weight: w, of the distance's shape; None is 1.

    Raises:
        ValueError: the divergence or the weight is of another shape than the answers.
    """
    found = divergence(softened(own, temperature), softened(target, temperature))
    logits = getattr(own, "logits", None)
    shape = own.actions.shape[:-1] if logits is None else logits.shape[:-1]  # type: ignore[attr-defined]
    for name, values in (("divergence", found), ("weight", weight)):
        if values is not None and values.shape != shape:
            raise ValueError(f"a {name} needs one number for each of {tuple(shape)}, got {tuple(values.shape)}")
    return temperature**2 * (found if weight is None else weight * found)


def _categorical(own: Any, target: Any) -> bool:
    """Whether both answers have logits; one of each kind cannot be compared."""
    kinds = [getattr(answer, "logits", None) is not None for answer in (own, target)]
    if kinds[0] != kinds[1]:
        raise PolicyKDError("divergence: one of two answers has logits and the other has none: they cannot be compared")
    return kinds[0]


def _gaussians(own: Any, target: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    parts = own.mean, own.std, target.mean, target.std
    if not all(isinstance(part, torch.Tensor) for part in parts):
        raise PolicyKDError("divergence: needs logits or a mean and a standard deviation of both answers; use mse")
    return parts
