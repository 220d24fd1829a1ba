"""Training on labels only, with or without label smoothing: the baseline of supervised distillation."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from policykd.distillation.categorical import hard_loss
from policykd.distillation.supervised.config import CrossEntropyConfig, LabelSmoothingConfig
from policykd.distillation.supervised.method import Method, Outputs, Phase, Step, Terms
from policykd.distillation.supervised.training_config import TrainingConfig


class CrossEntropy(Method):
    """Train on labels only; a teacher, if given, is used only for comparison."""

    config_type: ClassVar[type[TrainingConfig]] = CrossEntropyConfig
    uses_teacher: ClassVar[bool] = False

    def __init__(self, config: CrossEntropyConfig, student: Outputs, teacher: Outputs) -> None:
        super().__init__(config, student, teacher)
        self.label_smoothing = config.label_smoothing

    def passes(self, epochs: int) -> list[Phase]:
        """Epochs of the student only."""
        return [Phase("student", teacher=False)] * epochs

    def loss(self, step: Step) -> tuple[Tensor, Terms]:
        """Cross-entropy with the (smoothed) labels."""
        loss = hard_loss(step.student.logits, step.labels, self.label_smoothing)
        return loss, {"ce_loss": loss.detach()}


class LabelSmoothing(CrossEntropy):
    """Train on labels smoothed by 0.1."""

    config_type: ClassVar[type[TrainingConfig]] = LabelSmoothingConfig
