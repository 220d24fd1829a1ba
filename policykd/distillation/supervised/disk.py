"""Kag et al. 2023, *Scaffolding a Student to Instill Knowledge*: DiSK, a teacher that helps where the student cannot.

A guide g(x) in [0, 1] adds to the student's probabilities before they are compared with the teacher's, so that a
hopeless example pulls the student less. The guide is one function of the teacher's features, shared by all examples,
trained in turns with the student, on a budget, and dropped at inference.
"""

from __future__ import annotations

from itertools import pairwise
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from policykd.core.errors import PolicyKDError
from policykd.distillation.categorical import UNLABELLED, hard_loss
from policykd.distillation.schedules import cosine
from policykd.distillation.supervised.config import DiSKConfig
from policykd.distillation.supervised.feature_maps import as_map
from policykd.distillation.supervised.method import STUDENT, Method, Outputs, Phase, Step, Terms
from policykd.distillation.supervised.training_config import TrainingConfig

GUIDE = Phase("guide", trains="guide")


def helped_classes(teacher_logits: Tensor, labels: Tensor, top_k: int) -> Tensor:
    """Where the guide may help: the teacher's K largest classes and the true one, ``(B, C)`` of 0 and 1."""
    top = teacher_logits.topk(min(top_k, teacher_logits.shape[1]), dim=1).indices
    mask = torch.zeros_like(teacher_logits).scatter_(1, top, 1.0)
    known = labels != UNLABELLED
    return torch.maximum(mask, F.one_hot(labels.where(known, 0), mask.shape[1]) * known[:, None])


def scaffolded_loss(
    logits: Tensor,
    teacher_logits: Tensor,
    help: Tensor,
    mask: Tensor,
    student_temperature: float,
    teacher_temperature: float,
) -> Tensor:
    """Cross-entropy of the teacher with the helped student, the mean over the batch, times both temperatures.

    With s and t the softened probabilities, m the mask of K classes and g the help, it is
    ``-sum_y t_y log((s_y + g m_y) / (1 + g K))``: s + g m sums to 1 + g K, so that it is a distribution again. The
    teacher's t is its softmax over the classes of the mask.

    Args:
        logits: the student's ``(B, C)``.
        teacher_logits: ``(B, C)``.
        help: g ``(B,)`` in [0, 1].
        mask: m ``(B, C)`` of 0 and 1, at least one 1 per row.
        student_temperature: T of s.
        teacher_temperature: T of t.
    """
    helped = (logits / student_temperature).softmax(1) + help[:, None] * mask
    target = (teacher_logits / teacher_temperature).masked_fill(mask == 0, -torch.inf).softmax(1)
    inside = helped.where(mask > 0, 1.0).log()  # outside the mask the target is 0
    cross_entropy = torch.log1p(help * mask.sum(1)) - (target * inside).sum(1)
    return student_temperature * teacher_temperature * cross_entropy.mean()


def budget_hinge(
    logits: Tensor, labels: Tensor, help: Tensor, budget: float, largest: float, per_mistake: bool = True
) -> Tensor:
    """``max(0, sum(g * CE) / n - budget)``: what the guide helps beyond its budget.

    Args:
        logits: the student's ``(B, C)``.
        labels: ``(B,)``; an example without label needs no help that could be counted.
        help: g ``(B,)``.
        budget: delta.
        largest: bound of an example's cross-entropy.
        per_mistake: n is the number of examples that the student gets wrong, at least 1; else it is B.
    """
    cross_entropy = F.cross_entropy(logits, labels, ignore_index=UNLABELLED, reduction="none").clamp_max(largest)
    wrong = ((logits.argmax(1) != labels) & (labels != UNLABELLED)).sum().clamp_min(1)
    return F.relu((help * cross_entropy).sum() / (wrong if per_mistake else len(labels)) - budget)


class Guide(nn.Module):
    """g(x) in [0, 1] from a teacher's map ``(B, D, S)``: 1x1 convolutions, the mean over positions, a sigmoid.

    Args:
        inputs: D.
        width: channels between.
    """

    def __init__(self, inputs: int, width: int) -> None:
        super().__init__()
        widths = [inputs, width, width]
        layers = [[nn.Conv1d(a, b, 1, bias=False), nn.BatchNorm1d(b), nn.SiLU()] for a, b in pairwise(widths)]
        self.body = nn.Sequential(*[module for layer in layers for module in layer])
        self.last = nn.Linear(width, 1)

    def forward(self, feature: Tensor) -> Tensor:
        """Help ``(B,)``."""
        return self.last(self.body(as_map(feature)).mean(2)).squeeze(1).sigmoid()


class DiSK(Method):
    """The student and its guide, in turns."""

    config_type: ClassVar[type[TrainingConfig]] = DiSKConfig

    def __init__(self, config: DiSKConfig, student: Outputs, teacher: Outputs) -> None:
        super().__init__(config, student, teacher)
        self.config = config
        seen = (*teacher.features, teacher.logits)[0]
        if seen.ndim not in (2, 3, 4):
            raise PolicyKDError(
                f"features: the guide of disk reads (B, D), (B, N, D) or (B, D, H, W), not {seen.shape}"
            )
        self.guide = Guide(as_map(seen).shape[1], config.guide_width)

    def passes(self, epochs: int) -> list[Phase]:
        """The guide alone first, then both in turns until the student has had its passes."""
        plan = [GUIDE] * self.config.guide_warm_up_epochs
        while epochs > 0:
            students = min(epochs, self.config.student_passes)
            epochs -= students
            plan += [STUDENT] * students + [GUIDE] * (self.config.guide_passes if epochs else 0)
        return plan

    def helpers(self, group: str) -> list[nn.Module]:
        """The guide learns in passes of its own."""
        return [self.guide] if group == "guide" else []

    def loss(self, step: Step) -> tuple[Tensor, Terms]:
        """The student: scaffolded loss and labels, the guide's answers fixed. The guide: scaffolded loss and budget."""
        config, student, teacher = self.config, step.student, step.teacher
        help = self.guide((*teacher.features, teacher.logits)[0])
        mask = helped_classes(teacher.logits, step.labels, config.top_k)
        temperatures = config.student_temperature, config.teacher_temperature
        soft = scaffolded_loss(student.logits, teacher.logits, help, mask, *temperatures)
        terms = {"kd_loss": soft.detach(), "help": help.mean().detach()}
        if step.phase == STUDENT.name:
            hard = hard_loss(student.logits, step.labels)
            return config.soft_weight * soft + config.hard_weight * hard, {"ce_loss": hard.detach(), **terms}
        budget = _between(config.budget, step.progress)
        per_mistake = config.budget_per == "mistake"
        over = budget_hinge(student.logits, step.labels, help, budget, config.largest_cross_entropy, per_mistake)
        loss = config.soft_weight * soft + _between(config.penalty, step.progress) * over
        return loss, {**terms, "over_budget": over.detach()}


def _between(ends: tuple[float, ...], progress: float) -> float:
    """From the first to the last number on half a cosine over the run."""
    first, last = ends
    return last + (first - last) * cosine(progress)
