"""Peers of a group as one: acting together, and distilled into one student that is shipped."""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from torch import Tensor

from policykd.core.errors import PolicyKDError
from policykd.core.networks import PolicyOutput
from policykd.distillation.divergences import divergence_of
from policykd.distillation.peer_step import DistillationStep, nothing
from policykd.learners import Learner, OffPolicyLearner
from policykd.memory.replay import SharedReplay

Rule = Literal["mean", "greedy"]
"""How a group chooses: the mean of its peers' actions; or the action that its critics value most (generalised policy
improvement, Barreto et al. 2017)."""


def group_actions(learner: Learner, observations: Tensor, peers: int, rule: Rule) -> Tensor:
    """What every group does, ``(G, B, A)`` in [-1, 1], at raw observations ``(G, B, O)``.

    Args:
        learner: all peers of all groups.
        observations: one row per group.
        peers: learners N per group.
        rule: how a group chooses.

    Raises:
        PolicyKDError: "greedy" needs critics Q(s, a).
    """
    everybody = observations.repeat_interleave(peers, dim=0)
    actions = learner.policy(learner.actor, everybody).unflatten(0, (-1, peers))
    if rule == "mean":
        mean: Tensor = actions.mean(1)
        return mean
    if not isinstance(learner, OffPolicyLearner):
        raise PolicyKDError(f"learner: greedy needs critics Q(s, a), and {learner.name} has none: use group")
    groups, _, batch, size = actions.shape
    # Every peer's critics judge the actions of all peers: (K, N * B) state-action pairs in each row.
    candidates = actions.reshape(groups, 1, peers * batch, size).expand(-1, peers, -1, -1).flatten(0, 1)
    values = learner.q_values(learner.critic, everybody.repeat(1, peers, 1), candidates).amin(1)
    best = values.view(groups, peers, peers, batch).mean(1).argmax(1)
    chosen: Tensor = actions.gather(1, best[:, None, :, None].expand(-1, 1, -1, size)).squeeze(1)
    return chosen


def distil_group(
    learner: Learner,
    replay: SharedReplay,
    student: Learner,
    peers: int,
    rule: Rule,
    generators: list[np.random.Generator],
    gradient_steps: int,
    batch_size: int,
    learning_rate: float,
) -> Tensor:
    """Train one student per group on what the group does at the later half of its replay; no environment step.

    Args:
        learner: all peers of all groups.
        replay: their transitions.
        student: one row per group.
        peers: learners N per group.
        rule: how a group chooses.
        generators: one per group, for sampling.
        gradient_steps: steps of Adam.
        batch_size: states per step and student.
        learning_rate: Adam's, which falls to 0 in a straight line.

    Returns:
        The last batch's mean squared distance of actions ``(G,)``.
    """
    step = DistillationStep(None, student.config, student, divergence_of("action_mse"))
    per_peer = [generator for generator in generators for _ in range(peers)]
    info: dict[str, Tensor] = {}
    with torch.no_grad():
        for done in range(gradient_steps):
            batch = replay.sample(batch_size, per_peer, "pooled", recent=max(1, replay.size // 2))
            states = batch.observations[::peers]
            target = PolicyOutput(group_actions(learner, states, peers, rule))
            rate = torch.tensor(learning_rate * (1 - done / gradient_steps), device=states.device)
            info = step.copy(states, target, nothing, None, rate, done == gradient_steps - 1)
    return info["distill/loss"]
