"""RID (Dissanayake et al. 2025, *Quantifying Knowledge Distillation Using Partial Information Decomposition*).

The student matches f_t(teacher), a filter of the teacher's features trained to predict the label, rather than the
features themselves, so that task-irrelevant information is not distilled. Two phases alternate (Algorithm 1):

1. filters: train f_t and its heads g_t on labels, and to stay close to f_s(student) (eq. 10);
2. student: train the student, f_s and a variance per channel on labels and on f_t's outputs (eq. 11 and 12).
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from policykd.core.errors import PolicyKDError
from policykd.distillation.categorical import hard_loss
from policykd.distillation.supervised.config import Reduction, RIDConfig
from policykd.distillation.supervised.feature_maps import (
    as_maps,
    check_pairs,
    reduced,
    two_layers,
)
from policykd.distillation.supervised.method import STUDENT, Method, Outputs, Phase, Step, Terms
from policykd.distillation.supervised.training_config import TrainingConfig

FLOOR, START = 1e-3, 5.0
"""Minimum of sigma, and its initial raw value (before softplus)."""
FILTERS_WARM_UP = Phase("filters_warm_up", trains="filters")
FILTERS = Phase("filters", trains="filters")


def rid_distance(student: Tensor, teacher: Tensor, sigma: Tensor, reduction: Reduction = "mean") -> Tensor:
    """V^2 / sigma with V = f_t(T) - f_s(S), averaged over the batch (second term of equation 10).

    Args:
        student: f_s(S) ``(B, D, S)``.
        teacher: f_t(T) ``(B, D, S)``.
        sigma: a positive value per channel ``(D,)``.
        reduction: reduction over channels and positions.
    """
    return reduced((teacher - student).square() / sigma[:, None], reduction)


def rid_loss(student: Tensor, teacher: Tensor, sigma: Tensor, reduction: Reduction = "mean") -> Tensor:
    """Student loss of a pair of maps: ||sigma||^2 + V^2 / sigma (equation 12), with sums or means."""
    return reduced(sigma.square()[None, :, None], reduction) + rid_distance(student, teacher, sigma, reduction)


class StudentSide(nn.Module):
    """f_s and a sigma per channel for a student's map ``(B, D, S)``."""

    def __init__(self, own: Tensor) -> None:
        super().__init__()
        width = own.shape[1]
        self.filter = two_layers(width, 2 * width, width)
        self.raw_sigma = nn.Parameter(torch.full((width,), START))

    def forward(self, own: Tensor) -> tuple[Tensor, Tensor]:
        """f_s(S) ``(B, D, S)`` and sigma ``(D,)``."""
        return self.filter(own), F.softplus(self.raw_sigma) + FLOOR


class RID(Method):
    """Distils only the task-relevant information in the teacher's features."""

    config_type: ClassVar[type[TrainingConfig]] = RIDConfig

    def __init__(self, config: RIDConfig, student: Outputs, teacher: Outputs) -> None:
        super().__init__(config, student, teacher)
        self.config = config
        pairs = check_pairs("rid", student, teacher)
        self.student_sides = nn.ModuleList(StudentSide(own) for own, _ in pairs)
        self.teacher_filters = nn.ModuleList(
            two_layers(target.shape[1], target.shape[1], own.shape[1]) for own, target in pairs
        )
        sizes = [own.shape[1] * own.shape[2] for own, _ in pairs]
        self.heads = nn.ModuleList(
            nn.Sequential(nn.Flatten(), nn.ReLU(), nn.Linear(size, self.classes)) for size in sizes
        )

    @property
    def needs_labels(self) -> bool:
        """The teacher's filters learn from labels what is relevant to the task."""
        return True

    def passes(self, epochs: int) -> list[Phase]:
        """Algorithm 1 for the given epochs of the student; the last cycle may be short."""
        config = self.config
        filters = min(max(1, round(config.filter_share * config.cycle_epochs)), config.cycle_epochs - 1)
        plan = [FILTERS_WARM_UP] * config.filter_warm_up_epochs
        while epochs > 0:
            students = min(epochs, config.cycle_epochs - filters)
            plan += [FILTERS] * filters + [STUDENT] * students
            epochs -= students
        return plan

    def helpers(self, group: str) -> list[nn.Module]:
        """Phase 1 trains the teacher's filters and heads, phase 2 the student's filters and the variances."""
        return [self.teacher_filters, self.heads] if group == "filters" else [self.student_sides]

    def loss(self, step: Step) -> tuple[Tensor, Terms]:
        """Phase 1: equation 10, only its first term in the warm-up. Phase 2: equations 11 and 12."""
        pairs = as_maps(step.student, step.teacher)
        filtered = [f(target) for f, (_, target) in zip(self.teacher_filters, pairs, strict=True)]
        own = [side(x) for side, (x, _) in zip(self.student_sides, pairs, strict=True)]
        together, how = list(zip(own, filtered, strict=True)), self.config.reduction
        if step.phase == STUDENT.name:
            hard = hard_loss(step.student.logits, step.labels)
            rid = torch.stack([rid_loss(x, t, sigma, how) for (x, sigma), t in together]).sum()
            loss = self.config.hard_weight * hard + self.config.weight * rid
            return loss, {"ce_loss": hard.detach(), "rid_loss": rid.detach()}
        answers = [_answer(head, t) for head, t in zip(self.heads, filtered, strict=True)]
        hard = torch.stack([hard_loss(answer, step.labels) for answer in answers]).sum()
        distance = torch.stack([rid_distance(x, t, sigma, how) for (x, sigma), t in together]).sum()
        loss = hard if step.phase == FILTERS_WARM_UP.name else hard + distance
        return loss, {"ce_loss": hard.detach(), "distance": distance.detach()}


def _answer(head: nn.Module, filtered: Tensor) -> Tensor:
    """Logits ``(B, C)`` of a map ``(B, D, S)``, whose size must be the head's."""
    if filtered[0].numel() != head[-1].in_features:  # type: ignore[index]
        raise PolicyKDError(
            f"features: rid needs maps of one size in all batches, but got {tuple(filtered.shape)}, as from texts of "
            "another length: name modules that give one vector (B, D) per example"
        )
    return head(filtered)
