"""Distributions over classes: temperature, divergence and reduction, shared by everything that compares logits.

Logits are ``(..., C)``; what is one number per example is ``(...)``; losses of a batch are means over it.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

UNLABELLED = -100
"""The label of an example that has none (torch's ``ignore_index``): only the teacher speaks of it."""


def categorical_kl(logits: Tensor, target_logits: Tensor, temperature: float = 1.0) -> Tensor:
    """KL(target || student) of two softmax distributions at a temperature, in nats.

    Args:
        logits: the student's ``(..., C)``.
        target_logits: the target's ``(..., C)``; a class of -inf, which it rules out, adds nothing.
        temperature: both logits are divided by it.

    Returns:
        ``(...)``, summed over classes; without the factor T^2.

    Raises:
        ValueError: the shapes differ.
    """
    _check(logits, target_logits)
    own, target = ((x / temperature).log_softmax(-1) for x in (logits, target_logits))
    terms = F.kl_div(own, target, reduction="none", log_target=True)
    return terms.masked_fill(target == -torch.inf, 0.0).sum(-1)  # 0 log 0 = 0


def categorical_cross_entropy(logits: Tensor, target_logits: Tensor) -> Tensor:
    """Hx(target, student) = -E_{a ~ target} log student(a) of two softmax distributions ``(..., C)``: ``(...)``, nats.

    Raises:
        ValueError: the shapes differ.
    """
    _check(logits, target_logits)
    return -(target_logits.softmax(-1) * logits.log_softmax(-1)).sum(-1)


def categorical_nll(logits: Tensor, target_logits: Tensor) -> Tensor:
    """Negative log-likelihood of the target's likeliest class ``(..., C)``: ``(...)`` (Rusu et al. 2015, equation 1).

    Raises:
        ValueError: the shapes differ.
    """
    _check(logits, target_logits)
    best = target_logits.argmax(-1, keepdim=True)
    return -logits.log_softmax(-1).gather(-1, best).squeeze(-1)


def logits_mse(logits: Tensor, target_logits: Tensor) -> Tensor:
    """Squared Euclidean distance of logits or Q-values ``(..., C)``: ``(...)`` (Rusu et al. 2015, equation 2).

    Raises:
        ValueError: the shapes differ.
    """
    _check(logits, target_logits)
    return (logits - target_logits).square().sum(-1)


def soft_loss(logits: Tensor, target_logits: Tensor, temperature: float) -> Tensor:
    """T^2 times the mean over the batch of KL(target || student) at temperature T (Hinton et al. 2015, section 2).

    The gradient of the KL falls as 1/T^2; the factor keeps its size, so that weights of the term need not follow T.
    """
    return temperature**2 * categorical_kl(logits, target_logits, temperature).mean()


def hard_loss(logits: Tensor, labels: Tensor, label_smoothing: float = 0.0) -> Tensor:
    """Cross-entropy with the labels, the mean over the labelled examples; 0 for a batch without any.

    Args:
        logits: ``(B, C)``.
        labels: ``(B,)`` in [0, C), or ``UNLABELLED``.
        label_smoothing: share of the label that is spread over all classes.
    """
    total = F.cross_entropy(logits, labels, ignore_index=UNLABELLED, label_smoothing=label_smoothing, reduction="sum")
    return total / (labels != UNLABELLED).sum().clamp_min(1)


def ensemble_logits(logits: Tensor) -> Tensor:
    """Logits of the mean of several softmax distributions ``(M, ..., C)``: the log of that mean, ``(..., C)``.

    Stanton et al. 2021, section 2: an ensemble's teacher is the mean of probabilities, not of logits.
    """
    return logits.log_softmax(-1).logsumexp(0) - torch.tensor(float(len(logits))).log()


def _check(logits: Tensor, target_logits: Tensor) -> None:
    """Refuse shapes that broadcasting would quietly accept."""
    if logits.shape != target_logits.shape:
        raise ValueError(f"a divergence needs logits of equal shape, got {logits.shape} and {target_logits.shape}")
