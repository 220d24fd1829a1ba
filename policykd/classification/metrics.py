"""How good and how faithful a classifier is, from all its logits at once."""

from __future__ import annotations

from torch import Tensor

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
        ``accuracy``, ``ece`` (expected calibration error, 10 bins) and ``nll`` (nats) if there are labels;
        ``agreement`` (share of equal top classes), ``kl`` (mean KL(teacher || student) at T = 1, nats) and
        ``teacher_accuracy`` if there is a teacher.
    """
    functional = needs("torchmetrics.functional.classification")
    result = {}
    known = labels != UNLABELLED
    classes = logits.shape[1]
    if known.any():
        own, right = logits[known], labels[known]
        accuracy = functional.multiclass_accuracy(own, right, num_classes=classes, average="micro")
        ece = functional.multiclass_calibration_error(own.softmax(1), right, num_classes=classes, n_bins=ECE_BINS)
        result = {"accuracy": accuracy, "ece": ece, "nll": hard_loss(own, right)}
    if teacher_logits is not None:
        result["agreement"] = agreement(logits, teacher_logits)
        result["kl"] = categorical_kl(logits, teacher_logits).mean()
        if known.any():
            result["teacher_accuracy"] = (teacher_logits.argmax(1) == labels)[known].float().mean()
    return {name: float(value) for name, value in result.items()}


def agreement(logits: Tensor, teacher_logits: Tensor) -> Tensor:
    """Share of examples ``(n, C)`` at which both have the same top class."""
    return (logits.argmax(1) == teacher_logits.argmax(1)).float().mean()
