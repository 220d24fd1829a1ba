"""The settings of training a student, whatever the method; ``config.py`` adds each method's own."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from policykd.core.fields import not_negative, positive, read_fields, require
from policykd.core.registry import NAME

Function = Callable[..., Any]


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
        read_fields(self)
        positive(self, "epochs", "batch_size", "eval_every", "log_freq", "learning_rate")
        not_negative(self, "warm_up_epochs", "weight_decay", "mixup", "seed", "cache_megabytes")
        require(self.warm_up_epochs <= self.epochs, "warm_up_epochs", self.warm_up_epochs, f"of {self.epochs} epochs")
        bound = self.max_grad_norm
        require(bound is None or bound > 0, "max_grad_norm", bound, "must be positive, or None for no bound")
        for name, value in vars(self).items():
            require(not isinstance(value, float) or math.isfinite(value), name, value, "must be finite")

    @property
    def feature_paths(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Modules of the student and of the teacher, by path, whose outputs the method looks at."""
        return (), ()


@dataclass(frozen=True)
class FeaturePaths(TrainingConfig):
    """Which features a method compares."""

    student_features: tuple[str, ...] = ()
    """Modules of the student by path, such as layer2; the n-th is compared with the teacher's n-th."""
    teacher_features: tuple[str, ...] = ()
    """Modules of the teacher by path."""

    @property
    def feature_paths(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """The student's and the teacher's."""
        return self.student_features, self.teacher_features
