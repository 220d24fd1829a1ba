"""The part of the task's observation that a policy reads: columns, a map, or a history."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from policykd.core.errors import PolicyKDError
from policykd.tasks.groups import columns_of
from policykd.tasks.views import View
from policykd.teachers import versions
from policykd.teachers.policy import Memory, Policy, needs_memory, preprocessed
from policykd.teachers.task import TaskSpaces, base_name

ObservationMap = Callable[[Tensor], Tensor] | Sequence[int | str] | str
"""Columns, names of groups, a function, or an older version of a MuJoCo task."""


def of_groups(policy: Policy, groups: Mapping[str, Sequence[int]]) -> Policy:
    """The policy on full observations ``(B, O)``, where ``policy`` reads named groups of them in its own order."""
    columns = [int(column) for name in policy.groups for column in groups.get(name, ())]
    size = sum(map(len, groups.values()))
    if len(columns) != policy.observation_size or columns == list(range(size)):
        return policy  # it reads them as they are, or does not fit, which is checked later
    chosen = torch.tensor(columns)
    return preprocessed(policy, lambda observations: observations[:, chosen.to(observations.device)]).changed(
        observation_size=size, normalisers=()
    )


def through(policy: Policy, view: View) -> Policy:
    """The policy on full observations ``(B, O)``, where ``policy`` reads ``view``, possibly with a history."""
    if view.history == 1:
        if view.is_full:
            return policy.changed(observation_size=view.size)
        return preprocessed(policy, view.of_torch).changed(observation_size=view.size, normalisers=())

    def step(observations: Tensor, memory: Memory | None, starts: Tensor) -> tuple[Tensor, Tensor | None, Memory]:
        stack = view.push_torch(view.of_torch(observations), None if memory is None else memory[0], starts)
        if policy.step is None:
            return *policy.gaussian(stack.flatten(1)), (stack,)
        mean, std, rest = policy.step(stack.flatten(1), None if memory is None else memory[1:], starts)
        return mean, std, (stack, *rest)

    refused = needs_memory(policy.source)
    return policy.changed(observation_size=view.size, gaussian=refused, step=step, value=None, normalisers=())


def map_of_task(observation_map: ObservationMap | None, task: TaskSpaces | None) -> ObservationMap | None:
    """Resolve an observation map: group names to columns, and the name of an older version to a function.

    Raises:
        PolicyKDError: there is no such group or version, or the task is needed but not given.
    """
    if observation_map is None or callable(observation_map) or all(isinstance(part, int) for part in observation_map):
        return observation_map
    if task is None:
        raise PolicyKDError(f"observation_map: {observation_map!r} needs a task: give env=")
    if isinstance(observation_map, str) and observation_map not in task.groups:
        return versions.older(observation_map, base_name(task.env_id), task.observation_size)
    return columns_of("observation_map", observation_map, task.groups)


def as_function(observation_map: ObservationMap | None, device: torch.device) -> Callable[[Tensor], Tensor]:
    """A function from the task's observations ``(B, O)`` to what a teacher reads ``(B, O')``."""
    if observation_map is None:
        return lambda observations: observations
    if callable(observation_map):
        return observation_map
    assert not isinstance(observation_map, str)
    columns = torch.tensor([int(column) for column in observation_map], device=device)
    return lambda observations: observations[:, columns]
