"""The settings of a run, whatever learns; ``config.py`` adds them to each backbone's own."""

from __future__ import annotations

import math
import typing
from dataclasses import dataclass

from policykd.core.fields import initial_value, not_negative, positive, require
from policykd.learners import sb3_arguments


@dataclass(frozen=True)
class RunConfig:
    """How often a run evaluates, logs and saves, in environment steps of one group, all peers together."""

    ADVICE = sb3_arguments.ADVICE  # not a field: what to say about names that are not settings here
    CONVERTERS = sb3_arguments.CONVERTERS  # not a field either: what reads other ways to write a value
    eval_freq: int = 10_000
    """Environment steps between evaluations of all learners. 0 evaluates only at the end."""
    n_eval_episodes: int = 10
    """Episodes per learner and evaluation. 0 never evaluates, and saves no best model."""
    log_freq: int = 2_000
    """Environment steps between rows of the log."""
    checkpoint_freq: int = 50_000
    """Environment steps between checkpoints to resume from. 0 saves only at the end (and at Ctrl-C)."""
    matmul_precision: typing.Literal["float32", "bfloat16"] = "float32"
    """bfloat16: products between hidden layers of 32 and more units round their operands, sums stay float32; pays for
    wide networks. Only on processors with AVX512-BF16."""

    def __post_init__(self) -> None:
        """Refuse values that cannot work, each in one line."""
        require(self.eval_freq >= 0, "eval_freq", self.eval_freq, "must not be negative (0: only at the end)")
        require(self.n_eval_episodes >= 0, "n_eval_episodes", self.n_eval_episodes, "must not be negative (0: never)")
        positive(self, "log_freq")
        not_negative(self, "checkpoint_freq")
        for name, value in vars(self).items():
            number = initial_value(value)
            unbounded = name == "weight_ratio"  # infinity: no bound
            require(unbounded or not isinstance(number, float) or math.isfinite(number), name, value, "must be finite")
            require(not isinstance(number, int) or number < 2**63, name, value, "must be less than 2^63")
