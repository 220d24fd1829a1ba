"""How strongly peers imitate the best of them, so that they stay near it (P3S, Jung et al. 2020)."""

from __future__ import annotations

import torch
from torch import Tensor

from policykd.distillation.weights import Student

LEAST, MOST = 2.0**-14, 2.0**7
"""Bounds of the weight, close to those of ``schedules.dual_ascent``, so that it can always recover."""


class NearBest:
    """One imitation weight per group: doubled where its peers are too far from the best, halved where too near.

    With D(a, b) = |a - b|^2 / 2 averaged over states, peers should keep the distance max(ratio * D(best now, best
    before), least). The weight is doubled where they are farther than 1.5 times that, and halved where they are nearer
    than that over 1.5.

    Args:
        learner: the learners.
        peers: learners per group.
        ratio: of the distance from the best to how far it moves.
        least: the distance where it stands still.
    """

    def __init__(self, learner: Student, peers: int, ratio: float, least: float) -> None:
        self.learner, self.peers, self.ratio, self.least = learner, peers, ratio, least
        self.before = learner.actor.clone()
        self.strength = torch.ones(len(learner.actor), dtype=learner.actor.dtype, device=learner.actor.device)
        """The weight of every learner ``(K,)``, alike within a group."""

    @torch.no_grad()
    def update(self, states: Tensor, best: Tensor) -> None:
        """Measure how far each group is from its best peer, and how far that has moved since the last call.

        Args:
            states: observations ``(K, B, O)``; those of a group's first row are used for all of it.
            best: index of each group's best learner ``(G,)``; -1 where it is not known, and the group stays as it was.
        """
        shared = states[:: self.peers].repeat_interleave(self.peers, dim=0)
        now = self.learner.outputs(self.learner.actor, shared).actions
        before = self.learner.outputs(self.before, shared).actions
        known, leader = best >= 0, best.clamp_min(0)
        moved = _distance(now, before)[leader]
        apart = _distance(now, now[leader].repeat_interleave(self.peers, dim=0))
        spread = apart.view(-1, self.peers).sum(1) / (self.peers - 1)
        aim = (self.ratio * moved).clamp_min(self.least)
        factor = torch.where(spread > 1.5 * aim, 2.0, torch.where(spread < aim / 1.5, 0.5, 1.0))
        factor, looked = torch.where(known, factor, 1.0), known.repeat_interleave(self.peers).unsqueeze(1)
        self.strength.mul_(factor.repeat_interleave(self.peers).to(self.strength.dtype)).clamp_(LEAST, MOST)
        self.before.copy_(torch.where(looked, self.learner.actor, self.before))


def _distance(one: Tensor, other: Tensor) -> Tensor:
    return 0.5 * (one - other).square().sum(-1).mean(-1)
