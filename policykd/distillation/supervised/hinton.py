"""Hinton, Vinyals & Dean 2015, *Distilling the Knowledge in a Neural Network*: learn from softened outputs.

The student's loss is ``(1 - alpha) * CE(labels) + alpha * T^2 * KL(teacher || student)`` at temperature T. Divergence,
weights and schedules are those of policies, too (``policykd.distillation.vocabulary``). The defaults are the setting
that hurt small students least on trial data (``experiments/classification/search_defaults.py``); the paper's own kind
of setting is ``AS_PUBLISHED``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from policykd.core.fields import require
from policykd.distillation import weights
from policykd.distillation.categorical import UNLABELLED, hard_loss
from policykd.distillation.schedules import SCHEDULES
from policykd.distillation.supervised.method import Method, Outputs, Step, Terms, TrainingConfig
from policykd.distillation.vocabulary import VOCABULARY, Divergence, distance, kl_forward

AS_PUBLISHED = {"alpha": 0.9, "alpha_schedule": "constant", "temperature": 4.0}
"""A weighting as papers have it: much of the teacher, softened."""


@dataclass(frozen=True)
class HintonConfig(TrainingConfig):
    """Settings of Hinton's distillation."""

    alpha: float = 0.5
    """Weight of the teacher's word in [0, 1]; the labels weigh 1 - alpha. 1 is the teacher alone, throughout."""
    alpha_schedule: Literal["constant", "linear", "exponential", "cosine"] = "linear"
    """How an alpha below 1 falls over the student's epochs, from the teacher to the labels (Clark et al. 2019)."""
    temperature: float = 1.0
    """Both logits are divided by it, and the term is multiplied by its square."""
    divergence: Literal["kl_forward", "kl_reverse", "nll", "mse"] = "kl_forward"
    """How far apart teacher and student are; forward is KL(teacher || student)."""
    example_weight: Literal["uniform", "disadvantage", "hard_gate"] = "uniform"
    """How much the teacher's word counts at each example, of mean 1 over the batch: alike, by how much likelier the
    teacher finds the label than the student does, or only where it does. Examples without a label count alike."""

    def __post_init__(self) -> None:
        """Refuse values that cannot work, each in one line."""
        super().__post_init__()
        require(0 <= self.alpha <= 1, "alpha", self.alpha, "must lie in [0, 1]")
        require(self.temperature > 0, "temperature", self.temperature, "must be positive")


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
        alpha: weight of the teacher's word.
        temperature: T.
        divergence: another one than the KL.
        weight: of the teacher's word at each example ``(B,)``; None is 1.
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


def likelihood(logits: Tensor, labels: Tensor) -> Tensor:
    """What stands for a value in weights of examples: the log-probability of the label ``(1, B)``, 0 without one."""
    known = labels != UNLABELLED
    return (logits.log_softmax(1).gather(1, labels.where(known, 0)[:, None]).squeeze(1) * known)[None]


WEIGHTS = {
    "disadvantage": lambda teacher, own: weights.disadvantage(teacher, own, 1.0),
    "hard_gate": weights.hard_gate,
}
"""Weights of DPD, of the teacher's value and the student's own."""


class Hinton(Method):
    """Learn from the teacher's softened outputs and from the labels."""

    config_type: ClassVar[type[TrainingConfig]] = HintonConfig
    divergence: Divergence | None = None
    """The user's own; None is what the settings say."""

    def __init__(self, config: HintonConfig, student: Outputs, teacher: Outputs) -> None:
        super().__init__(config, student, teacher)
        self.config = config

    @property
    def uses_labels(self) -> bool:
        """Not where the teacher alone is heard."""
        return self.config.alpha < 1 or self.config.example_weight != "uniform"

    def loss(self, step: Step) -> tuple[Tensor, Terms]:
        """Hinton's loss."""
        config, own, target, weight = self.config, step.student.logits, step.teacher.logits, None
        alpha = config.alpha if config.alpha == 1 else config.alpha * SCHEDULES[config.alpha_schedule](step.progress)
        if config.example_weight != "uniform":
            with torch.no_grad():
                values = (likelihood(logits, step.labels) for logits in (target, own))
                weight = WEIGHTS[config.example_weight](*values).squeeze(0)
        divergence = self.divergence or VOCABULARY[config.divergence]
        return hinton_loss(own, target, step.labels, alpha, config.temperature, divergence, weight)
