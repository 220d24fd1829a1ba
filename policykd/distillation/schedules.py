"""How strong distillation is over a run: functions of the progress from 0 (start) to 1 (end of the budget).

They scale the learning rate of the distillation step, not its loss: Adam divides a constant factor out of a loss.
"""

from __future__ import annotations

import math
from collections.abc import Callable


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
