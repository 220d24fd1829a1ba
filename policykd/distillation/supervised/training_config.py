"""Training settings common to all supervised methods; ``config.py`` adds each method's own."""

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
    """Training settings common to all methods."""

    epochs: int = 10
    """Epochs of the student. Passes over the data that only train a method's helpers are extra, so that methods with
    equal epochs train their students for the same number of passes."""
    warm_up_epochs: int = 0
    """Number of initial epochs that train on labels only."""
    batch_size: int = 128
    """Examples per step, of all processes together."""
    optimizer: Annotated[str | Function, NAME] = "adam"
    """Optimiser of the student and of a method's helpers: adam, adamw, sgd (with Nesterov momentum 0.9), or a function
    that makes one from the parameters and sets its own learning rate and weight decay."""
    learning_rate: float = 1e-3
    """Learning rate."""
    learning_rate_schedule: Annotated[str | Function, NAME] = "cosine"
    """Decay of the learning rate, step by step, over the passes that use the optimiser: constant, linear, exponential,
    cosine, or a function of the progress from 0 to 1."""
    weight_decay: float = 0.0
    """Weight decay."""
    max_grad_norm: float | None = None
    """Gradient norm to clip at; None does not clip."""
    mixup: float = 0.0
    """Mix pairs of inputs with a coefficient drawn once per batch from Beta(mixup, mixup); 0 disables mixup. Labels are
    not mixed: the teacher labels the mixture, so the loss must not use labels (Stanton et al. 2021)."""
    mixed_precision: Literal["no", "fp16", "bf16"] = "no"
    """Precision of the networks' forward passes; losses are computed in float32."""
    teacher_outputs: Literal["auto", "logits", "probabilities"] = "auto"
    """What the teacher returns; "auto" detects it from the first outputs. Log-probabilities count as logits."""
    seed: int = 0
    """Seed of shuffling, dropout, augmentation and the helpers' initial weights."""
    eval_every: int = 1
    """Epochs of the student between validations; each run of consecutive epochs also ends with one."""
    keep_best: bool = True
    """Keep the student that was best on the validation data; False keeps the last."""
    log_freq: int = 50
    """Steps per row of the log; losses are checked for non-finite values at the same interval."""
    cache_megabytes: int = 2000
    """Cache the teacher's outputs if they fit into this memory and inputs are not augmented; 0 disables the cache."""

    def __post_init__(self) -> None:
        """Refuse values that cannot work, each in one line."""
        read_fields(self)
        positive(self, "epochs", "batch_size", "eval_every", "log_freq", "learning_rate")
        not_negative(self, "warm_up_epochs", "weight_decay", "mixup", "seed", "cache_megabytes")
        require(self.warm_up_epochs <= self.epochs, "warm_up_epochs", self.warm_up_epochs, f"of {self.epochs} epochs")
        bound = self.max_grad_norm
        require(bound is None or bound > 0, "max_grad_norm", bound, "must be positive, or None for no limit")
        for name, value in vars(self).items():
            require(not isinstance(value, float) or math.isfinite(value), name, value, "must be finite")

    @property
    def feature_paths(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Paths of the student's and the teacher's modules whose outputs the method uses."""
        return (), ()


@dataclass(frozen=True)
class FeaturePaths(TrainingConfig):
    """Settings of methods that compare features."""

    student_features: tuple[str, ...] = ()
    """Paths of the student's modules, such as layer2; the n-th is compared with the teacher's n-th."""
    teacher_features: tuple[str, ...] = ()
    """Paths of the teacher's modules."""

    @property
    def feature_paths(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Paths of the student's and the teacher's modules."""
        return self.student_features, self.teacher_features
