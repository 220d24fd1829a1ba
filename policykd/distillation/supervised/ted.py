"""TED (Liang et al. 2023, *Less is More: Task-aware Layer-wise Distillation*): match task-relevant features.

Stage 1 trains a linear filter on every matched layer of teacher and student, each with its own task head, while both
networks are frozen. Stage 2 trains the student and its filters to match the teacher's filtered features.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from policykd.distillation.categorical import hard_loss, soft_loss
from policykd.distillation.supervised.config import TEDConfig
from policykd.distillation.supervised.feature_maps import as_maps, check_pairs, linear
from policykd.distillation.supervised.method import STUDENT, Method, Outputs, Phase, Step, Terms
from policykd.distillation.supervised.training_config import TrainingConfig

FILTERS = Phase("filters", trains="filters")


def filter_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean squared error between filtered maps of student and teacher, both ``(B, D, S)``."""
    return F.mse_loss(student, teacher)


class TaskHead(nn.Module):
    """Logits from a filtered map: a linear layer on the mean over positions."""

    def __init__(self, width: int, classes: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, classes)

    def forward(self, filtered: Tensor) -> Tensor:
        """``(B, D, S)`` to ``(B, C)``."""
        return self.linear(filtered.mean(2))


class TED(Method):
    """Trains task-aware filters, then the student."""

    config_type: ClassVar[type[TrainingConfig]] = TEDConfig

    def __init__(self, config: TEDConfig, student: Outputs, teacher: Outputs) -> None:
        super().__init__(config, student, teacher)
        self.config = config
        pairs = check_pairs("ted", student, teacher)
        widths = [config.filter_width or target.shape[1] for _, target in pairs]
        sizes = [(own.shape[1], target.shape[1], w) for (own, target), w in zip(pairs, widths, strict=True)]
        self.student_filters = nn.ModuleList(linear(own, width) for own, _, width in sizes)
        self.teacher_filters = nn.ModuleList(linear(target, width) for _, target, width in sizes)
        self.heads = nn.ModuleList(TaskHead(width, self.classes) for _, _, width in sizes for _ in range(2))

    @property
    def needs_labels(self) -> bool:
        """Stage 1, if there is one, learns from labels."""
        return self.config.filter_epochs > 0

    def passes(self, epochs: int) -> list[Phase]:
        """Stage 1, then stage 2."""
        return [FILTERS] * self.config.filter_epochs + [STUDENT] * epochs

    def helpers(self, group: str) -> list[nn.Module]:
        """Stage 1 trains filters and heads, stage 2 the student's filters along with the student."""
        if group == "filters":
            return [self.student_filters, self.teacher_filters, self.heads]
        return [self.student_filters]

    def loss(self, step: Step) -> tuple[Tensor, Terms]:
        """Stage 1: cross-entropy of every head. Stage 2: labels, teacher's logits, filtered features."""
        pairs = as_maps(step.student, step.teacher)
        own = [f(x) for f, (x, _) in zip(self.student_filters, pairs, strict=True)]
        target = [f(t) for f, (_, t) in zip(self.teacher_filters, pairs, strict=True)]
        if step.phase == FILTERS.name:
            filtered = [member for pair in zip(own, target, strict=True) for member in pair]
            heads = [hard_loss(head(x), step.labels) for head, x in zip(self.heads, filtered, strict=True)]
            loss = torch.stack(heads).sum()
            return loss, {"ce_loss": loss.detach()}
        hard = hard_loss(step.student.logits, step.labels)
        soft = soft_loss(step.student.logits, step.teacher.logits, self.config.temperature)
        layers = torch.stack([filter_loss(x, t) for x, t in zip(own, target, strict=True)]).mean()
        loss = hard + self.config.kl_alpha * soft + self.config.mse_alpha * layers
        return loss, {"ce_loss": hard.detach(), "kd_loss": soft.detach(), "layer_loss": layers.detach()}
