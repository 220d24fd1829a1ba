"""Hinton, Vinyals & Dean 2015, *Distilling the Knowledge in a Neural Network*: learn from softened outputs.

The student's loss is ``(1 - alpha) * CE(labels) + alpha * T^2 * KL(teacher || student)`` at temperature T. Divergences,
weights and schedules are those of policies, too. The defaults are the setting that hurt small students least on trial
data (``experiments/classification/search_defaults.py``); the papers' kind of setting is ``AS_PUBLISHED``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

import torch
from torch import Tensor

from policykd.core.errors import PolicyKDError, telling
from policykd.core.fields import number_at
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
"""Weights of policies, of the teacher's value and the student's own."""
AS_PUBLISHED = {"alpha": 0.9, "alpha_schedule": "constant", "temperature": 4.0}
"""A weighting as papers have it: much of the teacher, softened."""


def hinton_loss(
    logits: Tensor,
    target_logits: Tensor,
    labels: Tensor,
    alpha: float,
    temperature: float,
    divergence: Divergence = kl_forward,
    weight: Tensor | None = None,
) -> tuple[Tensor, Terms]:
    """``(1 - alpha) * CE + alpha * T^2 * KL(teacher || student)``, the mean over the batch.

    Args:
        logits: the student's ``(B, C)``.
        target_logits: the teacher's ``(B, C)``.
        labels: ``(B,)``; not looked at for ``alpha=1``.
        alpha: weight of the teacher's loss.
        temperature: T.
        divergence: another one than the KL.
        weight: of the teacher's loss at each example ``(B,)``; None is 1.
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
    """What stands for a value in weights of examples: the log-probability of the label ``(1, B)``, 0 without one."""
    known = labels != UNLABELLED
    return (logits.log_softmax(1).gather(1, labels.where(known, 0)[:, None]).squeeze(1) * known)[None]


class Hinton(Method):
    """Learn from the teacher's softened outputs and from the labels."""

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
        """Refuse a divergence or a weight, which may be a user's own, that cannot work, before anything is trained."""
        asked = "must give (B,) for two answers with .logits (B, C), the student's and the teacher's"
        with telling(f"divergence: {asked}: "):
            distance(student, teacher, self.divergence, self.config.temperature)
        values = student.logits.new_zeros(1, len(student.logits))
        with telling("example_weight: must give (1, B) for log-likelihoods (1, B) of the teacher and the student: "):
            distance(student, teacher, weight=self.weight(values, values).squeeze(0))

    def _alpha(self, progress: float) -> float:
        """The weight of the teacher's loss at a share of the student's passes."""
        if self.config.alpha == 1:
            return 1.0
        share = number_at("alpha_schedule", self.schedule, progress)
        alpha = self.config.alpha * share
        if alpha > 1:
            raise PolicyKDError(
                f"config: alpha_schedule({progress:g}) gives {share:g}, times alpha={self.config.alpha:g} above 1: the "
                "labels would weigh less than nothing; give numbers from 0 to 1"
            )
        return alpha

    @property
    def uses_labels(self) -> bool:
        """Not where the teacher alone is heard."""
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
