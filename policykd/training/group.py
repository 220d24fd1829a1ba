"""Peers of a group as one: acting together, and distilled into one student that is shipped."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import get_args

import numpy as np
import torch
from torch import Tensor

from policykd.core.errors import PolicyKDError, nearest
from policykd.core.networks import PolicyOutput
from policykd.distillation.divergences import divergence_of
from policykd.distillation.peer_step import DistillationStep
from policykd.learners import Learner, OffPolicyLearner
from policykd.memory.replay import SharedReplay
from policykd.training.learner_choice import Rule

DAGGER_ROUNDS = 5
"""DAgger rounds: in each the student acts, then is distilled."""


def group_actions(learner: Learner, observations: Tensor, peers: int, rule: Rule, best: Tensor | None = None) -> Tensor:
    """Every group's actions ``(G, B, A)`` in [-1, 1] at raw observations ``(G, B, O)``.

    Args:
        learner: all peers of all groups.
        observations: one row per group.
        peers: learners N per group.
        rule: how a group chooses.
        best: "best": the index of that learner in every group, ``(G,)``.

    Raises:
        PolicyKDError: the rule is unknown, or "greedy" lacks critics Q(s, a).
    """
    if rule not in (rules := get_args(Rule)):
        raise PolicyKDError(f"rule: {rule!r} is unknown{nearest(str(rule), rules)}; there are {', '.join(rules)}")
    everybody = observations.repeat_interleave(peers, dim=0)
    actions = learner.policy(learner.actor, everybody).clamp(-1, 1).unflatten(0, (-1, peers))  # PPO's know no bounds
    if rule == "mean":
        mean: Tensor = actions.mean(1)
        return mean
    if rule == "best":
        assert best is not None
        of_best: Tensor = actions.flatten(0, 1)[best]
        return of_best
    if not isinstance(learner, OffPolicyLearner):
        advice = 'use rule="mean" (of predict: learner="group")'
        raise PolicyKDError(f"rule: greedy needs critics Q(s, a), but {learner.name} has none: {advice}")
    groups, _, batch, size = actions.shape
    # Every peer's critics judge the actions of all peers: (K, N * B) state-action pairs in each row.
    candidates = actions.reshape(groups, 1, peers * batch, size).expand(-1, peers, -1, -1).flatten(0, 1)
    values = learner.q_values(learner.critic, everybody.repeat(1, peers, 1), candidates).amin(1)
    favourite = values.view(groups, peers, peers, batch).mean(1).argmax(1)
    chosen: Tensor = actions.gather(1, favourite[:, None, :, None].expand(-1, 1, -1, size)).squeeze(1)
    return chosen


@dataclass(frozen=True)
class GroupDistillation:
    """Distils each group into one student, on the later half of the replay and on states the student visits.

    Args:
        learner: all peers of all groups.
        replay: their transitions.
        student: one row per group.
        peers: learners N per group.
        rule: how a group chooses.
        generators: one per group, for sampling.
        batch_size: states per step and student.
        learning_rate: Adam's, which falls to 0 in a straight line.
        best: the learner of every group that rule "best" copies, ``(G,)``.
    """

    learner: Learner
    replay: SharedReplay
    student: Learner
    peers: int
    rule: Rule
    generators: list[np.random.Generator]
    batch_size: int
    learning_rate: float
    best: Tensor | None

    @torch.no_grad()
    def run(self, gradient_steps: int, visit: Callable[[int], Tensor], dagger_steps: int) -> None:
        """Distil; after half of the steps, also at states that the students visit (DAgger, Ross et al. 2011).

        Args:
            gradient_steps: steps of Adam.
            visit: lets all students act for n steps and returns the states where they were, ``(G, n, O)``.
            dagger_steps: how many such states to ask for, in rounds; from then on they are half of every batch.
        """
        student = self.student
        step = DistillationStep(None, student.config, student, divergence_of("action_mse"))
        first = gradient_steps // 2
        rounds = min(DAGGER_ROUNDS, dagger_steps, gradient_steps - first)
        starts = [first + n * (gradient_steps - first) // rounds for n in range(rounds)]
        counts = [(n + 1) * dagger_steps // rounds - n * dagger_steps // rounds for n in range(rounds)]
        asked = dict(zip(starts, counts, strict=True))
        visited: list[Tensor] = []
        for done in range(gradient_steps):
            if done in asked:
                visited.append(visit(asked[done]))
            states = self._states(torch.cat(visited, dim=1) if visited else None)
            target = PolicyOutput(group_actions(self.learner, states, self.peers, self.rule, self.best))
            rate = torch.tensor(self.learning_rate * (1 - done / gradient_steps), device=states.device)
            step.copy(states, target, None, None, rate, False)

    def _states(self, visited: Tensor | None) -> Tensor:
        """A batch ``(G, B, O)`` of the replay's later half, and half of it from ``visited (G, n, O)`` where given."""
        per_peer = [generator for generator in self.generators for _ in range(self.peers)]
        stored = self.batch_size if visited is None else self.batch_size - self.batch_size // 2
        recent = max(1, self.replay.size // 2)
        states = self.replay.sample(stored, per_peer, "pooled", recent=recent).observations[:: self.peers]
        if visited is None:
            return states
        drawn = np.stack([g.integers(visited.shape[1], size=self.batch_size // 2) for g in self.generators])
        index = torch.from_numpy(drawn).to(visited.device)
        own = visited.gather(1, index.unsqueeze(-1).expand(-1, -1, visited.shape[2]))
        return torch.cat((states, own), dim=1)
