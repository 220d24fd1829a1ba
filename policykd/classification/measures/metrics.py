"""Quality and fidelity of a classifier from its logits."""

from __future__ import annotations

import torch
from torch import Tensor

from policykd.classification.outputs import check_numbers
from policykd.core.extras import import_extra
from policykd.distillation.categorical import UNLABELLED, categorical_kl, hard_loss

ECE_BINS = 10
"""Equal-width bins of the confidence, the largest probability (Stanton et al. 2021)."""


def metrics(logits: Tensor, labels: Tensor, teacher_logits: Tensor | None = None) -> dict[str, float]:
    """Compute the quality of a student, and its fidelity to a teacher.

    Args:
        logits: the student's ``(n, C)``.
        labels: ``(n,)``; ``UNLABELLED`` examples count for fidelity only.
        teacher_logits: the teacher's ``(n, C)``; None without a teacher.

    Returns:
        ``accuracy``, ``balanced_accuracy`` (mean recall over the classes that occur), ``f1`` (mean over classes that
        occur or are predicted), ``ece`` (expected calibration error, 10 bins) and ``nll`` (nats) if there are labels;
        ``agreement`` (fraction of equal top classes), ``kl`` (mean KL(teacher || student) at T = 1, nats) and
        ``teacher_accuracy`` if there is a teacher.

    Raises:
        PolicyKDError: logits are NaN.
    """
    check_numbers(logits, "student")
    if teacher_logits is not None:
        check_numbers(teacher_logits, "teacher")
    functional = import_extra("torchmetrics.functional.classification")
    result = {}
    known = labels != UNLABELLED
    classes = logits.shape[1]
    if known.any():
        own, right = logits[known], labels[known]
        accuracy = functional.multiclass_accuracy(own, right, num_classes=classes, average="micro")
        ece = calibration_error(own, right)
        recall, f1 = by_class(own.argmax(1), right, classes)
        result = {"accuracy": accuracy, "balanced_accuracy": recall, "f1": f1, "ece": ece, "nll": hard_loss(own, right)}
    if teacher_logits is not None:
        result["agreement"] = agreement(logits, teacher_logits)
        result["kl"] = categorical_kl(logits, teacher_logits).mean()
        if known.any():
            result["teacher_accuracy"] = (teacher_logits.argmax(1) == labels)[known].float().mean()
    return {name: float(value) for name, value in result.items()}


def calibration_error(logits: Tensor, labels: Tensor) -> Tensor:
    """ECE of logits ``(n, C)``: the gap between confidence and accuracy, averaged over bins weighted by size.

    A confidence on an edge counts in the bin above; 1 counts in the last one (torchmetrics adds an eleventh).
    """
    confidence, named = logits.softmax(1).max(1)
    edges = torch.linspace(0, 1, ECE_BINS + 1, device=logits.device, dtype=logits.dtype)[1:-1]
    place = torch.bucketize(confidence, edges, right=True)
    gaps = confidence.new_zeros(ECE_BINS).index_add_(0, place, confidence - (named == labels).to(confidence))
    return gaps.abs().sum() / len(labels)


def by_class(predictions: Tensor, labels: Tensor, classes: int) -> tuple[Tensor, Tensor]:
    """Macro recall over the classes that occur, and macro F1 over those that occur or are predicted, from ``(n,)``."""
    counts = (labels * classes + predictions).bincount(minlength=classes**2).view(classes, classes).double()
    hits, occur, predicted = counts.diagonal(), counts.sum(1), counts.sum(0)
    f1 = 2 * hits / (occur + predicted).clamp_min(1)
    return (hits / occur.clamp_min(1))[occur > 0].mean(), f1[occur + predicted > 0].mean()


def agreement(logits: Tensor, teacher_logits: Tensor) -> Tensor:
    """Fraction of examples with the same top class, for logits ``(n, C)``."""
    return (logits.argmax(1) == teacher_logits.argmax(1)).float().mean()
