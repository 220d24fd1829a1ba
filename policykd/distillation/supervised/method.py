"""What a supervised distillation method is: settings, a plan of passes over the data, and a loss.

A *pass* goes over the training data once and trains one group of modules: the student with what learns beside it, or
helpers of the method's own (a guide, filters). What does not train in a pass is in eval mode and gets no gradient.
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
"""Parts of a loss by their logged name, scalars without gradient."""


class Outputs(NamedTuple):
    """What a network says of a batch."""

    logits: Tensor
    """``(B, C)``."""
    features: tuple[Tensor, ...] = ()
    """What the named modules gave: ``(B, D)``, ``(B, N, D)`` or ``(B, D, H, W)`` each."""


class Phase(NamedTuple):
    """What one pass over the data does."""

    name: str
    """Name in logs and in ``Step.phase``."""
    trains: str = "student"
    """The group of modules that learn: "student", or one of the method's own."""
    teacher: bool = True
    """Whether the loss looks at the teacher's outputs."""
    student: bool = True
    """Whether it looks at the student's."""


OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "adam": torch.optim.Adam,
    "adamw": torch.optim.AdamW,
    "sgd": partial(torch.optim.SGD, momentum=0.9, nesterov=True),
}
"""What ``optimizer`` names, made of parameters, ``lr`` and ``weight_decay``."""
STUDENT = Phase("student")
WARM_UP = Phase("warm_up", teacher=False)


@dataclass(frozen=True)
class Step:
    """What a loss may look at."""

    phase: str
    """Name of the phase."""
    student: Outputs
    """The student's outputs; without gradient in a phase that does not train it."""
    teacher: Outputs
    """The teacher's outputs, without gradient."""
    labels: Tensor
    """``(B,)``, ``UNLABELLED`` where there is none."""
    progress: float
    """Share of the student's passes that are done, from 0 to 1."""


class Method(nn.Module):
    """Base of the methods. Modules that a method registers are its helpers; they are trained, never deployed.

    Args:
        config: the method's settings.
        student: the student's outputs for some examples, from which a method learns the shapes.
        teacher: the teacher's outputs for the same examples.
    """

    config_type: ClassVar[type[TrainingConfig]] = TrainingConfig
    uses_teacher: ClassVar[bool] = True

    def __init__(self, config: TrainingConfig, student: Outputs, teacher: Outputs) -> None:
        super().__init__()
        self.classes = student.logits.shape[1]

    @property
    def uses_labels(self) -> bool:
        """Whether the loss looks at labels."""
        return True

    def plan(self, config: TrainingConfig) -> list[Phase]:
        """The phase of every pass over the data, from the first to the last."""
        warm = config.warm_up_epochs
        return [WARM_UP] * warm + self.passes(config.epochs - warm)

    def passes(self, epochs: int) -> list[Phase]:
        """The passes after the warm-up, ``epochs`` of them with the student."""
        return [STUDENT] * epochs

    def helpers(self, group: str) -> list[nn.Module]:
        """The method's modules that learn in phases of this group; the student itself is not among them."""
        return []

    def learning_rate(self, config: TrainingConfig, group: str) -> float:
        """Of the optimiser of this group."""
        return config.learning_rate

    def loss(self, step: Step) -> tuple[Tensor, Terms]:
        """The loss of one batch and its named parts."""
        raise NotImplementedError
