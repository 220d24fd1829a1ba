"""Distillation of softened outputs (Hinton, Vinyals & Dean 2015, *Distilling the Knowledge in a Neural Network*).

The student's loss is ``(1 - alpha) * CE(labels) + alpha * T^2 * KL(teacher || student)`` at temperature T. Divergences,
weights and schedules are shared with policy distillation. The defaults hurt small students least in a search
(``experiments/classification/search_defaults.py``); ``AS_PUBLISHED`` has typical settings of papers.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

import torch
from torch import Tensor

from policykd.core.errors import PolicyKDError, reraise
from policykd.core.fields import value_at
from policykd.core.registry import find
from policykd.distillation import weights
from policykd.distillation.categorical import UNLABELLED, hard_loss
from policykd.distillation.divergences import DIVERGENCES, Divergence, distance, kl_forward
from policykd.distillation.schedules import SCHEDULES
from policykd.distillation.supervised.config import HintonConfig
from policykd.distillation.supervised.method import Method, Outputs, Step, Terms
from policykd.distillation.supervised.training_config import TrainingConfig

WEIGHTS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "uniform": weights.uniform,
    "disadvantage": lambda teacher, own: weights.disadvantage(teacher, own, 1.0),
    "hard_gate": weights.hard_gate,
    "value_gate": weights.value_gate,
}
"""Weights of policy distillation that depend on the teacher's and the student's value."""
AS_PUBLISHED = {"alpha": 0.9, "alpha_schedule": "constant", "temperature": 4.0}
"""Typical settings of papers: mostly the teacher, at a high temperature."""


def hinton_loss(
    logits: Tensor,
    target_logits: Tensor,
    labels: Tensor,
    alpha: float,
    temperature: float,
    divergence: Divergence = kl_forward,
    weight: Tensor | None = None,
) -> tuple[Tensor, Terms]:
    """``(1 - alpha) * CE + alpha * T^2 * KL(teacher || student)``, averaged over the batch.

    Args:
        logits: the student's ``(B, C)``.
        target_logits: the teacher's ``(B, C)``.
        labels: ``(B,)``; ignored for ``alpha=1``.
        alpha: weight of the teacher's loss.
        temperature: T.
        divergence: divergence in place of the KL.
        weight: weight ``(B,)`` of the teacher's loss at each example; None is 1.
    """
    terms: Terms = {}
    loss = logits.new_zeros(())
    if alpha < 1:
        hard = hard_loss(logits, labels)
        terms["ce_loss"] = hard.detach()
        loss = loss + (1 - alpha) * hard
    if alpha > 0:
        soft = distance(Outputs(logits), Outputs(target_logits), divergence, temperature, weight).mean()
        terms["kd_loss"] = soft.detach()
        loss = loss + alpha * soft
    return loss, terms


def log_likelihood(logits: Tensor, labels: Tensor) -> Tensor:
    """Log-probability ``(1, B)`` of the labels, 0 without one: the value that example weights compare."""
    known = labels != UNLABELLED
    return (logits.log_softmax(1).gather(1, labels.where(known, 0)[:, None]).squeeze(1) * known)[None]


class Hinton(Method):
    """Train on the teacher's softened outputs and on labels."""

    config_type: ClassVar[type[TrainingConfig]] = HintonConfig

    def __init__(self, config: HintonConfig, student: Outputs, teacher: Outputs) -> None:
        super().__init__(config, student, teacher)
        self.config = config
        self.schedule = find("alpha_schedule", config.alpha_schedule, SCHEDULES)
        self.divergence = find("divergence", config.divergence, DIVERGENCES)
        self.weight = find("example_weight", config.example_weight, WEIGHTS)
        if self.uses_teacher and len(teacher.logits) == len(student.logits):
            self._try(student, teacher)
        for epoch in range(config.epochs):
            self._alpha(epoch / config.epochs)

    def _try(self, student: Outputs, teacher: Outputs) -> None:
        """Try the divergence and the weight, which may be a user's, before anything is trained."""
        asked = "must return (B,) for two outputs with .logits (B, C), the student's and the teacher's"
        with reraise(f"divergence: {asked}: "):
            distance(student, teacher, self.divergence, self.config.temperature)
        values = student.logits.new_zeros(1, len(student.logits))
        with reraise("example_weight: must return (1, B) for log-likelihoods (1, B) of the teacher and the student: "):
            distance(student, teacher, weight=self.weight(values, values).squeeze(0))

    def _alpha(self, progress: float) -> float:
        """Weight of the teacher's loss at a progress between 0 and 1."""
        if self.config.alpha == 1:
            return 1.0
        share = value_at("alpha_schedule", self.schedule, progress)
        alpha = self.config.alpha * share
        if alpha > 1:
            raise PolicyKDError(
                f"config: alpha_schedule({progress:g}) gives {share:g}, times alpha={self.config.alpha:g} above 1: the "
                "labels would have a negative weight; return numbers from 0 to 1"
            )
        return alpha

    @property
    def uses_labels(self) -> bool:
        """False if only the teacher is used."""
        return self.config.alpha < 1 or self.config.example_weight != "uniform"

    def loss(self, step: Step) -> tuple[Tensor, Terms]:
        """Hinton's loss."""
        config, own, target, weight = self.config, step.student.logits, step.teacher.logits, None
        alpha = self._alpha(step.progress)
        if config.example_weight != "uniform":
            with torch.no_grad():
                values = (log_likelihood(logits, step.labels) for logits in (target, own))
                weight = self.weight(*values).squeeze(0)
        return hinton_loss(own, target, step.labels, alpha, config.temperature, self.divergence, weight)
