"""How strong distillation is over a run: functions of the progress from 0 (start) to 1 (end of the budget).

They scale the learning rate of the distillation step, not its loss: Adam divides a constant factor out of a loss. Where
distillation shares one loss with RL they scale its weight.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from policykd.core.fields import value_at
from policykd.core.registry import find


def constant(progress: float) -> float:
    """Full strength throughout."""
    return 1.0


def linear(progress: float) -> float:
    """From 1 to 0 in a straight line."""
    return max(0.0, 1.0 - progress)


def exponential(progress: float, final: float = 0.01) -> float:
    """From 1 to ``final`` by a constant factor per step."""
    return final ** min(1.0, progress)


def cosine(progress: float) -> float:
    """From 1 to 0 on half a cosine."""
    return 0.5 * (1.0 + math.cos(math.pi * min(1.0, progress)))


SCHEDULES: dict[str, Callable[[float], float]] = {
    "constant": constant,
    "linear": linear,
    "exponential": exponential,
    "cosine": cosine,
}


BY_STUDENT = ("return_ratio", "held_kl")
"""Alongside RL, schedules of a teacher that follow its students, not the progress."""


def schedule_of(schedule: str | Callable[[float], float]) -> Callable[[float], float]:
    """Look up a schedule by its name in ``SCHEDULES``; what a function of the progress returns must be at least 0.

    Raises:
        PolicyKDError: the name is unknown, or it is not a function.
    """
    found = find("distill_schedule", schedule, SCHEDULES)
    return found if isinstance(schedule, str) else partial(value_at, "distill_schedule", found)


def return_ratio(student: Tensor, teacher: float, chance: float) -> Tensor:
    """QDagger's max(0, 1 - G_S / G_T) (Agarwal et al. 2022), with returns measured from that of random actions.

    This makes it independent of the sign and offset of returns: the plain ratio gives a student of return -300 and a
    teacher of -100 the weight max(0, 1 - 3) = 0, as if it needed no teacher. For chance = 0 it is the published rule.

    Args:
        student: the students' latest returns ``(K,)``.
        teacher: the teacher's mean return.
        chance: the mean return of random actions.

    Returns:
        ``(K,)`` within 0 and 1; all 0 if the teacher is no better than chance.
    """
    if teacher <= chance:
        return torch.zeros_like(student)
    return (1 - (student - chance) / (teacher - chance)).clamp(0, 1)


def dual_ascent(log_coefficient: Tensor, distance: Tensor, target: float, rate: float = 0.05) -> Tensor:
    """One step of dual ascent on log lambda, ``(K,)``: lambda rises while the distance ``(K,)`` is above its target."""
    return (log_coefficient + rate * (distance / target - 1).clamp(-1, 1)).clamp(-10, 5)


def beta_linear(round_number: int, rounds: int) -> float:
    """DAgger's beta_k = max(0, 1 - k / K): the teacher acts with this probability in round k, from 0."""
    return max(0.0, 1.0 - round_number / rounds)


def beta_exponential(round_number: int, decay: float) -> float:
    """DAgger's beta_k = p^k (Ross et al. 2011, section 3.1)."""
    return decay**round_number
