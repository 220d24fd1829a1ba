"""Hinton, Vinyals & Dean 2015, *Distilling the Knowledge in a Neural Network*: learn from softened outputs.

The student's loss is ``(1 - alpha) * CE(labels) + alpha * T^2 * KL(teacher || student)`` at temperature T. Divergences,
weights and schedules are those of policies, too. The defaults are the setting that hurt small students least on trial
data (``experiments/classification/search_defaults.py``); the papers' kind of setting is ``AS_PUBLISHED``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import torch
from torch import Tensor

from policykd.core.errors import PolicyKDError
from policykd.core.fields import fractions, positive
from policykd.core.registry import NAME, find
from policykd.distillation import weights
from policykd.distillation.categorical import UNLABELLED, hard_loss
from policykd.distillation.divergences import DIVERGENCES, Divergence, distance, kl_forward
from policykd.distillation.schedules import SCHEDULES
from policykd.distillation.supervised.method import Method, Outputs, Step, Terms, TrainingConfig

Function = Callable[..., Any]
WEIGHTS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "uniform": weights.uniform,
    "disadvantage": lambda teacher, own: weights.disadvantage(teacher, own, 1.0),
    "hard_gate": weights.hard_gate,
    "value_gate": weights.value_gate,
}
"""Weights of policies, of the teacher's value and the student's own."""
AS_PUBLISHED = {"alpha": 0.9, "alpha_schedule": "constant", "temperature": 4.0}
"""A weighting as papers have it: much of the teacher, softened."""


@dataclass(frozen=True)
class HintonConfig(TrainingConfig):
    """Settings of Hinton's distillation."""

    alpha: float = 0.5
    """Weight of the teacher's loss in [0, 1]; that of the labels is 1 - alpha. 1 is the teacher alone, throughout."""
    alpha_schedule: Annotated[str | Function, NAME] = "linear"
    """How an alpha below 1 falls over the student's epochs, from the teacher to the labels (Clark et al. 2019):
    constant, linear, exponential, cosine, or a function of the progress from 0 to 1."""
    temperature: float = 1.0
    """Both logits are divided by it, and the term is multiplied by its square."""
    divergence: Annotated[str | Function, NAME] = "kl_forward"
    """How far apart teacher and student are: kl_forward, which is KL(teacher || student), kl_reverse, nll, mse,
    cross_entropy_forward, cross_entropy_reverse; action_mse and action_huber, of probabilities; or a function of two
    answers that have logits (``policykd.distillation.divergences``)."""
    example_weight: Annotated[str | Function, NAME] = "uniform"
    """How much the teacher's loss counts at each example: uniform; disadvantage, by how much likelier the teacher finds
    the label than the student does; hard_gate, only where it does (all of mean 1 over the batch); value_gate, 1 where
    it does and 0 elsewhere; or a function of both log-likelihoods ``(1, B)`` (``policykd.distillation.weights``)."""

    def __post_init__(self) -> None:
        """Refuse values that cannot work, each in one line."""
        super().__post_init__()
        fractions(self, "alpha")
        positive(self, "temperature")
        find("alpha_schedule", self.alpha_schedule, SCHEDULES)
        find("divergence", self.divergence, DIVERGENCES)
        find("example_weight", self.example_weight, WEIGHTS)


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


def likelihood(logits: Tensor, labels: Tensor) -> Tensor:
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
            try:  # before anything is trained
                distance(student, teacher, self.divergence, config.temperature)
            except (AttributeError, ValueError) as error:
                raise PolicyKDError(f"divergence: {config.divergence} cannot compare logits (B, C): {error}") from None

    @property
    def uses_labels(self) -> bool:
        """Not where the teacher alone is heard."""
        return self.config.alpha < 1 or self.config.example_weight != "uniform"

    def loss(self, step: Step) -> tuple[Tensor, Terms]:
        """Hinton's loss."""
        config, own, target, weight = self.config, step.student.logits, step.teacher.logits, None
        alpha = config.alpha if config.alpha == 1 else config.alpha * self.schedule(step.progress)
        if config.example_weight != "uniform":
            with torch.no_grad():
                values = (likelihood(logits, step.labels) for logits in (target, own))
                weight = self.weight(*values).squeeze(0)
        return hinton_loss(own, target, step.labels, alpha, config.temperature, self.divergence, weight)
