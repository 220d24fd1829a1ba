"""Hinton, Vinyals & Dean 2015, *Distilling the Knowledge in a Neural Network*: learn from softened outputs.

The student's loss is ``(1 - alpha) * CE(labels) + alpha * T^2 * KL(teacher || student)`` at temperature T.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from policykd.core.fields import require
from policykd.distillation.categorical import hard_loss, soft_loss
from policykd.distillation.supervised.method import Method, Outputs, Step, Terms, TrainingConfig


@dataclass(frozen=True)
class HintonConfig(TrainingConfig):
    """Settings of Hinton's distillation."""

    alpha: float = 0.9
    """Weight of the teacher's word in [0, 1]; the labels weigh 1 - alpha."""
    temperature: float = 4.0
    """Both logits are divided by it, and the term is multiplied by its square."""

    def __post_init__(self) -> None:
        """Refuse values that cannot work, each in one line."""
        super().__post_init__()
        require(0 <= self.alpha <= 1, "alpha", self.alpha, "must lie in [0, 1]")
        require(self.temperature > 0, "temperature", self.temperature, "must be positive")


def hinton_loss(
    logits: Tensor, target_logits: Tensor, labels: Tensor, alpha: float, temperature: float
) -> tuple[Tensor, Terms]:
    """``(1 - alpha) * CE + alpha * T^2 * KL(teacher || student)``, the mean over the batch.

    Args:
        logits: the student's ``(B, C)``.
        target_logits: the teacher's ``(B, C)``.
        labels: ``(B,)``; not looked at for ``alpha=1``.
        alpha: weight of the teacher's word.
        temperature: T.
    """
    terms: Terms = {}
    loss = logits.new_zeros(())
    if alpha < 1:
        hard = hard_loss(logits, labels)
        terms["ce_loss"] = hard.detach()
        loss = loss + (1 - alpha) * hard
    if alpha > 0:
        soft = soft_loss(logits, target_logits, temperature)
        terms["kd_loss"] = soft.detach()
        loss = loss + alpha * soft
    return loss, terms


class Hinton(Method):
    """Learn from the teacher's softened outputs and from the labels."""

    config_type: ClassVar[type[TrainingConfig]] = HintonConfig

    def __init__(self, config: HintonConfig, student: Outputs, teacher: Outputs) -> None:
        super().__init__(config, student, teacher)
        self.config = config

    @property
    def uses_labels(self) -> bool:
        """Not where the teacher alone is heard."""
        return self.config.alpha < 1

    def loss(self, step: Step) -> tuple[Tensor, Terms]:
        """Hinton's loss."""
        alpha, temperature = self.config.alpha, self.config.temperature
        return hinton_loss(step.student.logits, step.teacher.logits, step.labels, alpha, temperature)
