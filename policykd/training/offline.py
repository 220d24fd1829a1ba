"""What students learn at logged states: the teacher's answers to them, or what was done there."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from policykd.core.errors import PolicyKDError
from policykd.core.fields import require
from policykd.distillation.labels import Labels
from policykd.memory.logged import LoggedStates
from policykd.tasks.spaces import ActionScale, Choices
from policykd.teachers.panel import Panel

CHUNK = 4_096
"""States that a teacher is asked at once."""
STD = 0.1
"""Standard deviation that logged continuous actions are taken to have, in actions scaled to [-1, 1]."""


def read(source: Any, task: str, size: int, most: int) -> LoggedStates:
    """Logged states of a task.

    Args:
        source: whatever ``LoggedStates.read`` takes.
        task: what the task is called.
        size: length of its whole observation.
        most: how many states can be kept.

    Raises:
        PolicyKDError: they cannot be read, are of another task, or are too many.
    """
    logged = LoggedStates.read(source)
    count, width = logged.observations.shape
    if width != size:
        raise PolicyKDError(f"states: {logged.source} has {width} observations, and {task} has {size}")
    require(count <= most, "dataset_size", most, f"keeps fewer than {count:,} states")
    return logged


def answers(states: LoggedStates, panel: Panel | None, scale: ActionScale | Choices, std: float | None) -> Tensor:
    """Packed answers ``(n, W)`` at logged states.

    Args:
        states: whole observations of the task.
        panel: the teachers; None: the actions in the data are the answers.
        scale: the task's actions.
        std: of actions without a teacher.

    Raises:
        PolicyKDError: there is neither a teacher nor an action that could stand for one.
    """
    if panel is not None:
        rows = torch.from_numpy(states.observations).unsqueeze(0)
        return torch.cat([panel.answer(part) for part in rows.split(CHUNK, dim=1)], dim=1).squeeze(0)
    actions = torch.from_numpy(states.as_learners_hold(scale))
    return Labels.of_actions(actions, isinstance(scale, Choices), STD if std is None else std).pack()
