"""What a supervised distillation method is: settings, a plan of passes over the data, and a loss.

A *pass* goes over the training data once and trains one group of modules: the student with what learns beside it, or
helpers of the method's own (a guide, filters). What does not train in a pass is in eval mode and gets no gradient.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, ClassVar, Literal, NamedTuple

import torch
from torch import Tensor, nn

from policykd.core.fields import not_negative, positive, require
from policykd.core.registry import NAME, find
from policykd.distillation.schedules import SCHEDULES

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


Function = Callable[..., Any]
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


@dataclass(frozen=True)
class TrainingConfig:
    """How a student is trained, whatever the method."""

    epochs: int = 10
    """Passes over the training data in which the student learns. Passes that only train a method's helpers come on
    top, so that methods of equal epochs give their student the same number of passes."""
    warm_up_epochs: int = 0
    """How many of these passes, the first, learn from labels alone."""
    batch_size: int = 128
    """Examples per step, of all processes together."""
    optimizer: Annotated[str | Function, NAME] = "adam"
    """The optimiser of the student and of a method's helpers: adam, adamw, sgd (with Nesterov momentum 0.9), or a
    function of the parameters that makes one, whose learning rate and decay then count instead of these."""
    learning_rate: float = 1e-3
    """Its learning rate."""
    learning_rate_schedule: Annotated[str | Function, NAME] = "cosine"
    """How the learning rate falls, step by step, over the passes in which that optimiser is used: constant, linear,
    exponential, cosine, or a function of the progress from 0 to 1."""
    weight_decay: float = 0.0
    """Its weight decay."""
    max_grad_norm: float | None = None
    """Largest norm of the gradient; None does not clip."""
    mixup: float = 0.0
    """Mix pairs of inputs, by a share drawn once per batch from Beta(mixup, mixup); 0 mixes none. Labels are not
    mixed: the teacher labels the mixture, so the loss must not use labels (Stanton et al. 2021)."""
    mixed_precision: Literal["no", "fp16", "bf16"] = "no"
    """Precision of the networks' forward passes; losses are computed in float32."""
    teacher_outputs: Literal["auto", "logits", "probabilities"] = "auto"
    """What the teacher gives; "auto" looks at its first answers. Log-probabilities are logits, too."""
    seed: int = 0
    """Of the order of examples, dropout, augmentation and the helpers' first weights."""
    eval_every: int = 1
    """Validate after every so many passes of the student, and at the end of each row of them."""
    keep_best: bool = True
    """End with the student that was best on the validation data; False: with the last."""
    log_freq: int = 50
    """Steps per row of progress. A loss that is not finite is noticed at this rate, too."""
    cache_megabytes: int = 2000
    """The teacher's outputs are kept while they take no more memory than this and inputs are not augmented; 0 never."""

    def __post_init__(self) -> None:
        """Refuse values that cannot work, each in one line."""
        positive(self, "epochs", "batch_size", "eval_every", "log_freq", "learning_rate")
        not_negative(self, "warm_up_epochs", "weight_decay", "mixup", "seed", "cache_megabytes")
        require(self.warm_up_epochs <= self.epochs, "warm_up_epochs", self.warm_up_epochs, f"of {self.epochs} epochs")
        find("optimizer", self.optimizer, OPTIMIZERS)
        find("learning_rate_schedule", self.learning_rate_schedule, SCHEDULES)
        bound = self.max_grad_norm
        require(bound is None or bound > 0, "max_grad_norm", bound, "must be positive, or None for no bound")
        for name, value in vars(self).items():
            require(not isinstance(value, float) or math.isfinite(value), name, value, "must be finite")

    @property
    def feature_paths(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Modules of the student and of the teacher, by path, whose outputs the method looks at."""
        return (), ()


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
