"""DiSK (Kag et al. 2023, *Scaffolding a Student to Instill Knowledge*): a guide helps with examples that are too hard.

A guide g(x) in [0, 1] is added to the student's probabilities before they are compared with the teacher's, so that
hopeless examples affect the student less. The guide is a network on the teacher's features, trained alternately with
the student under a budget, and dropped at inference.
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
    """Mask ``(B, C)`` of the classes the guide may help with: the teacher's K most likely and the true one."""
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
    """Cross-entropy between teacher and scaffolded student, averaged over the batch, times both temperatures.

    With s and t the softened probabilities, m the mask of K classes and g the help, it is
    ``-sum_y t_y log((s_y + g m_y) / (1 + g K))``: s + g m is normalised by its sum 1 + g K. The teacher's t is its
    softmax over the classes of the mask.

    Args:
        logits: the student's ``(B, C)``.
        teacher_logits: ``(B, C)``.
        help: g ``(B,)`` in [0, 1].
        mask: m ``(B, C)`` of 0 and 1, with at least one 1 per row.
        student_temperature: temperature of s.
        teacher_temperature: temperature of t.
    """
    helped = (logits / student_temperature).softmax(1) + help[:, None] * mask
    target = (teacher_logits / teacher_temperature).masked_fill(mask == 0, -torch.inf).softmax(1)
    inside = helped.where(mask > 0, 1.0).log()  # outside the mask the target is 0
    cross_entropy = torch.log1p(help * mask.sum(1)) - (target * inside).sum(1)
    return student_temperature * teacher_temperature * cross_entropy.mean()


def budget_hinge(
    logits: Tensor, labels: Tensor, help: Tensor, budget: float, largest: float, per_mistake: bool = True
) -> Tensor:
    """Help beyond the guide's budget, ``max(0, sum(g * CE) / n - budget)``.

    Args:
        logits: the student's ``(B, C)``.
        labels: ``(B,)``; examples without a label are not counted.
        help: g ``(B,)``.
        budget: delta.
        largest: upper bound of an example's cross-entropy.
        per_mistake: n is the number of examples that the student gets wrong, at least 1; otherwise B.
    """
    cross_entropy = F.cross_entropy(logits, labels, ignore_index=UNLABELLED, reduction="none").clamp_max(largest)
    wrong = ((logits.argmax(1) != labels) & (labels != UNLABELLED)).sum().clamp_min(1)
    return F.relu((help * cross_entropy).sum() / (wrong if per_mistake else len(labels)) - budget)


class Guide(nn.Module):
    """g(x) in [0, 1] from a teacher's map ``(B, D, S)``: 1x1 convolutions, mean over positions, sigmoid.

    Args:
        inputs: input channels D.
        width: hidden channels.
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
    """Trains student and guide alternately."""

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

    @property
    def needs_labels(self) -> bool:
        """Only labels bound the guide's help: without any it helps everywhere."""
        return True

    def passes(self, epochs: int) -> list[Phase]:
        """First the guide alone, then both alternately for the given epochs of the student."""
        plan = [GUIDE] * self.config.guide_warm_up_epochs
        while epochs > 0:
            students = min(epochs, self.config.student_passes)
            epochs -= students
            plan += [STUDENT] * students + [GUIDE] * (self.config.guide_passes if epochs else 0)
        return plan

    def helpers(self, group: str) -> list[nn.Module]:
        """The guide, trained in its own phases."""
        return [self.guide] if group == "guide" else []

    def loss(self, step: Step) -> tuple[Tensor, Terms]:
        """Student: scaffolded loss and labels, with the guide fixed. Guide: scaffolded loss and budget."""
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
    """Half-cosine interpolation from the first to the last value over the run."""
    first, last = ends
    return last + (first - last) * cosine(progress)
