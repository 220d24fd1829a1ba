"""Interface of supervised distillation methods: settings, a plan of passes over the data, and a loss.

A *pass* goes over the training data once and trains one group of modules: the student with modules trained alongside
it, or only helpers of the method (a guide, filters). All other modules are in eval mode and get no gradient.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from policykd.distillation.supervised.training_config import TrainingConfig

Terms = dict[str, Tensor]
"""Terms of a loss by their logged name: scalars without gradient."""


class Outputs(NamedTuple):
    """Outputs of a network for a batch."""

    logits: Tensor
    """``(B, C)``."""
    features: tuple[Tensor, ...] = ()
    """Outputs of the named modules, each ``(B, D)``, ``(B, N, D)`` or ``(B, D, H, W)``."""


class Phase(NamedTuple):
    """Description of one pass over the data."""

    name: str
    """Name in logs and in ``Step.phase``."""
    trains: str = "student"
    """The group of modules to train: "student", or a group defined by the method."""
    teacher: bool = True
    """Whether the loss uses the teacher's outputs."""
    student: bool = True
    """Whether the loss uses the student's outputs."""


OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "adam": torch.optim.Adam,
    "adamw": torch.optim.AdamW,
    "sgd": partial(torch.optim.SGD, momentum=0.9, nesterov=True),
}
"""Optimisers by name, called with parameters, ``lr`` and ``weight_decay``."""
STUDENT = Phase("student")
WARM_UP = Phase("warm_up", teacher=False)


@dataclass(frozen=True)
class Step:
    """Inputs of a loss."""

    phase: str
    """Name of the phase."""
    student: Outputs
    """The student's outputs, without gradient in phases that do not train it."""
    teacher: Outputs
    """The teacher's outputs, without gradient."""
    labels: Tensor
    """``(B,)``, ``UNLABELLED`` for missing labels."""
    progress: float
    """Completed fraction of the student's epochs, from 0 to 1."""


class Method(nn.Module):
    """Base class of methods. Modules that a method registers are helpers for training, never deployed.

    Args:
        config: the method's settings.
        student: the student's outputs for some examples, which define the shapes.
        teacher: the teacher's outputs for the same examples.
    """

    config_type: ClassVar[type[TrainingConfig]] = TrainingConfig
    uses_teacher: ClassVar[bool] = True

    def __init__(self, config: TrainingConfig, student: Outputs, teacher: Outputs) -> None:
        super().__init__()
        self.classes = student.logits.shape[1]

    @property
    def uses_labels(self) -> bool:
        """Whether the loss uses labels."""
        return True

    @property
    def needs_labels(self) -> bool:
        """Whether the student, or a helper, can learn from labels only."""
        return not self.uses_teacher

    def plan(self, config: TrainingConfig) -> list[Phase]:
        """The phases of all passes over the data, in order."""
        warm = config.warm_up_epochs
        return [WARM_UP] * warm + self.passes(config.epochs - warm)

    def passes(self, epochs: int) -> list[Phase]:
        """The phases after the warm-up, of which ``epochs`` train the student."""
        return [STUDENT] * epochs

    def helpers(self, group: str) -> list[nn.Module]:
        """The method's modules trained in phases of this group, without the student."""
        return []

    def learning_rate(self, config: TrainingConfig, group: str) -> float:
        """Learning rate of the group's optimiser."""
        return config.learning_rate

    def loss(self, step: Step) -> tuple[Tensor, Terms]:
        """Loss of one batch, and its terms by name."""
        raise NotImplementedError
