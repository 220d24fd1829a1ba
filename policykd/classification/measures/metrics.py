"""How good and how faithful a classifier is, from all its logits at once."""

from __future__ import annotations

import torch
from torch import Tensor

from policykd.classification.outputs import check_numbers
from policykd.core.extras import needs
from policykd.distillation.categorical import UNLABELLED, categorical_kl, hard_loss

ECE_BINS = 10
"""Equal bins of the largest probability (Stanton et al. 2021)."""


def metrics(logits: Tensor, labels: Tensor, teacher_logits: Tensor | None = None) -> dict[str, float]:
    """Quality and fidelity of a student on a data set.

    Args:
        logits: the student's ``(n, C)``.
        labels: ``(n,)``; ``UNLABELLED`` examples count for fidelity only.
        teacher_logits: the teacher's ``(n, C)``, where there is one.

    Returns:
        ``accuracy``, ``balanced_accuracy`` (mean recall of the classes that occur), ``f1`` (mean over the classes that
        occur or are named), ``ece`` (expected calibration error, 10 bins) and ``nll`` (nats) if there are labels;
        ``agreement`` (share of equal top classes), ``kl`` (mean KL(teacher || student) at T = 1, nats) and
        ``teacher_accuracy`` if there is a teacher.

    Raises:
        PolicyKDError: there is NaN among the logits.
    """
    check_numbers(logits, "student")
    if teacher_logits is not None:
        check_numbers(teacher_logits, "teacher")
    functional = needs("torchmetrics.functional.classification")
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
    """ECE of logits ``(n, C)``: the mean gap of confidence and accuracy over ``ECE_BINS`` bins, weighted by examples.

    A confidence on an edge is of the bin above, 1 of the last one (torchmetrics gives it an eleventh).
    """
    confidence, named = logits.softmax(1).max(1)
    edges = torch.linspace(0, 1, ECE_BINS + 1, device=logits.device, dtype=logits.dtype)[1:-1]
    place = torch.bucketize(confidence, edges, right=True)
    gaps = confidence.new_zeros(ECE_BINS).index_add_(0, place, confidence - (named == labels).to(confidence))
    return gaps.abs().sum() / len(labels)


def by_class(named: Tensor, labels: Tensor, classes: int) -> tuple[Tensor, Tensor]:
    """Recall and F1 of classes ``(n,)``, the mean over those that occur, for F1 also over those that are only named."""
    counts = (labels * classes + named).bincount(minlength=classes**2).view(classes, classes).double()
    hits, occur, said = counts.diagonal(), counts.sum(1), counts.sum(0)
    f1 = 2 * hits / (occur + said).clamp_min(1)
    return (hits / occur.clamp_min(1))[occur > 0].mean(), f1[occur + said > 0].mean()


def agreement(logits: Tensor, teacher_logits: Tensor) -> Tensor:
    """Share of examples ``(n, C)`` at which both have the same top class."""
    return (logits.argmax(1) == teacher_logits.argmax(1)).float().mean()
