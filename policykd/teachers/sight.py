"""A policy that reads a part of the task's observation, or the latest few of them, as one that reads all of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from policykd.tasks.views import View
from policykd.teachers.policy import Memory, Policy, remembers, seen_through


def of_groups(policy: Policy, groups: Mapping[str, Sequence[int]]) -> Policy:
    """The policy of whole observations ``(B, O)`` where ``policy`` reads named groups of them in its own order."""
    columns = [int(column) for name in policy.groups for column in groups.get(name, ())]
    size = sum(map(len, groups.values()))
    if len(columns) != policy.observation_size or columns == list(range(size)):
        return policy  # it reads them as they are, or does not fit, which is found out
    chosen = torch.tensor(columns)
    return seen_through(policy, lambda observations: observations[:, chosen.to(observations.device)]).changed(
        observation_size=size, normalisers=()
    )


def through(policy: Policy, view: View) -> Policy:
    """The policy of whole observations ``(B, O)`` where ``policy`` reads what ``view`` shows, also a history."""
    if view.history == 1:
        if view.whole:
            return policy.changed(observation_size=view.size)
        return seen_through(policy, view.of_torch).changed(observation_size=view.size, normalisers=())

    def step(observations: Tensor, memory: Memory | None, starts: Tensor) -> tuple[Tensor, Tensor | None, Memory]:
        parts = view.of_torch(observations).unsqueeze(1)
        first = parts.expand(-1, view.history, -1)
        stack = first
        if memory is not None:
            stack = torch.where(starts.bool().view(-1, 1, 1), first, torch.cat((memory[0][:, 1:], parts), 1))
        if policy.step is None:
            return *policy.gaussian(stack.flatten(1)), (stack,)
        mean, std, rest = policy.step(stack.flatten(1), None if memory is None else memory[1:], starts)
        return mean, std, (stack, *rest)

    refused = remembers(policy.source)
    return policy.changed(observation_size=view.size, gaussian=refused, step=step, value=None, normalisers=())
