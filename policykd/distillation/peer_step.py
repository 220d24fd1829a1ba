"""The distillation step of all learners at once (DPD, Lai et al. 2020, section 3.2 and algorithm 1)."""

from __future__ import annotations

from collections.abc import Callable
from operator import itemgetter

import numpy as np
import torch
from torch import Tensor

from policykd.core.errors import PolicyKDError
from policykd.core.networks import Adam, Loss, PolicyOutput, gradient
from policykd.distillation.divergences import Divergence, at_temperature, divergence_of
from policykd.distillation.methods import PeerMethod
from policykd.distillation.weights import (
    Compare,
    Comparison,
    Student,
    Weight,
    by_actions,
    by_values,
    effective_sample_size,
    weight_of,
)
from policykd.learners.distillation_config import DistillationConfig

LATEST = 256
"""How many latest states of each learner the logged distance between peers is measured at."""


class Peers:
    """Who distils from whom: in a group of N, each learner cycles through its N - 1 peers, one per step.

    Args:
        learners: number of learners K.
        peers: learners per group N.
        source: with "first" learners distil only from the first learner of their group.
        device: where the index tensors live.
    """

    def __init__(self, learners: int, peers: int, source: str | None, device: torch.device) -> None:
        index = np.arange(learners)
        first, place = index // peers * peers, index % peers
        self.rest = source == "best" or (source == "first" and peers > 2)
        """Whether a learner distils in some turns only."""
        self.peer_of = [first + (place + 1 + shift) % peers for shift in range(max(1, peers - 1))]
        """The peer of every learner ``(K,)``, turn by turn."""
        self.turns = []
        """(peer of k, its inverse, 1 where k is taught), each ``(K,)``, turn by turn."""
        for peer_of in self.peer_of:
            taught = (peer_of == first) & (index != first) if source == "first" else np.ones(learners)
            self.turns.append(
                (
                    torch.from_numpy(peer_of).to(device),
                    torch.from_numpy(np.argsort(peer_of)).to(device),
                    torch.from_numpy(taught.astype(np.float32)).to(device),
                )
            )


class DistillationStep:
    """One gradient step on J = E_s [w(s) D(pi_self(s), pi_source(s))] per learner, with an optimiser of its own.

    Args:
        weight: how much each state counts; None is all alike.
        config: settings.
        learner: the learners.
        divergence: distance ``(K, B)`` of a policy from its target.
        optimise: moves the actors along gradients ``(K, P)`` at a learning rate; None is an Adam of this step alone.
    """

    def __init__(
        self,
        weight: Weight | None,
        config: DistillationConfig,
        learner: Student,
        divergence: Divergence,
        optimise: Callable[[Tensor, Tensor], None] | None = None,
    ) -> None:
        self.weight, self.config, self.learner, self.divergence = weight, config, learner, divergence
        self.adam = Adam(learner.actor)
        self.optimise = optimise or (lambda gradients, rate: self.adam.step(learner.actor, gradients, rate))

    def copy(
        self,
        states: Tensor,
        target: PolicyOutput,
        compare: Compare | None,
        taught: Tensor | None,
        learning_rate: Tensor,
        diagnose: bool,
    ) -> dict[str, Tensor]:
        """Move every actor towards ``target`` at ``states`` and return diagnostics ``(K,)``.

        Args:
            states: observations ``(K, B, O)``.
            target: the source's answers there.
            compare: what the weight looks at, given the learners' own answers; None where there is no weight.
            taught: 1 where a learner distils, 0 where it is left alone, ``(K,)``; None is all.
            learning_rate: a scalar tensor, so that a schedule does not recompile.
            diagnose: also compute what is only logged.
        """
        gradients, info = gradient(self.loss(states, target, compare, taught, diagnose), self.learner.actor)
        self.optimise(gradients, learning_rate)
        return info

    def loss(
        self,
        states: Tensor,
        target: PolicyOutput,
        compare: Compare | None,
        taught: Tensor | None,
        diagnose: bool,
    ) -> Loss:
        """J of every learner as a function of the actors; arguments as in ``copy``."""

        def loss(actor: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
            own = self.learner.outputs(actor, states)
            weighted = self.divergence(own, target)
            if weighted.shape != states.shape[:2]:  # also where no weight would notice
                raise PolicyKDError(f"divergence: must return (K, B), got {tuple(weighted.shape)}")
            info = {}
            if self.weight is not None:
                assert compare is not None
                seen = compare(own.map(Tensor.detach))
                weight = self.weight(seen, self.config)
                weighted = weighted_distance(weight, weighted)
                info = _diagnose(seen, weight) if diagnose else {}
            losses = weighted.mean(1) if taught is None else weighted.mean(1) * taught
            if diagnose:
                gap = (own.actions.detach() - target.actions).square().sum(-1).sqrt().mean(1)
                info |= {"distill/loss": losses.detach(), "distill/action_gap": gap}
            return losses, info

        return loss


class PeerStep(DistillationStep):
    """The step towards a peer (DPD, Lai et al. 2020, section 3.2 and algorithm 1).

    Args:
        method: who copies whom, and how much each state counts.
        config: settings.
        learner: the learners.
        optimise: as in ``DistillationStep``.
        rest: whether learners may be taught at one step and rest at another (``Peers.rest``); not with ``optimise``.
    """

    def __init__(
        self,
        method: PeerMethod,
        config: DistillationConfig,
        learner: Student,
        optimise: Callable[[Tensor, Tensor], None] | None = None,
        rest: bool = False,
    ) -> None:
        divergence = at_temperature(divergence_of(config.divergence), config.temperature)
        super().__init__(weight_of(method.weight), config, learner, divergence, optimise)
        self.rest = rest and optimise is None
        if self.rest:
            self.adam.count_by_row()
        # Who has no critics is refused with the method.
        self.compare: Callable[..., Compare] = by_values if method.compares == "values" else by_actions

    def update(
        self,
        states: Tensor,
        peer_of: Tensor,
        student_of: Tensor,
        taught: Tensor,
        learning_rate: Tensor,
        diagnose: bool,
    ) -> dict[str, Tensor]:
        """Move every actor towards its peer's at ``states`` and return diagnostics ``(K,)``.

        Args:
            states: observations ``(K, B, O)`` at which learner k distils.
            peer_of: the learner whom k copies, a permutation ``(K,)`` within the groups.
            student_of: the learner who copies k, its inverse ``(K,)``.
            taught: 1 where a learner distils, 0 where it is left alone, ``(K,)``.
            learning_rate: a scalar tensor.
            diagnose: also compute what is only logged.
        """
        gradients, info = gradient(self.towards(states, peer_of, student_of, taught, diagnose), self.learner.actor)
        if self.rest:
            masked_adam_step(self.adam, self.learner.actor, gradients, learning_rate, taught)
        else:
            self.optimise(gradients, learning_rate)
        return info

    def towards(self, states: Tensor, peer_of: Tensor, student_of: Tensor, taught: Tensor, diagnose: bool) -> Loss:
        """The distance of every learner from its peer as a function of the actors; arguments as in ``update``."""
        learner = self.learner
        with torch.no_grad():
            # The peer acts in its own row, on the states of the learner who copies it; then each learner fetches its
            # peer's answer. This moves states and actions, never weights. Peers get no gradient.
            peer_states = states[student_of]
            peer = learner.outputs(learner.actor, peer_states)
            compare = self.compare(learner, states, peer_states, peer, peer_of, student_of) if self.weight else None
        return self.loss(states, peer.map(itemgetter(peer_of)), compare, taught, diagnose)


def masked_adam_step(
    adam: Adam, rows: Tensor, gradients: Tensor, learning_rate: float | Tensor, taught: Tensor
) -> None:
    """A step of Adam, which counts by row, for learners that are taught; by its moments the others would move on, too.

    Args:
        adam: the optimiser.
        rows: parameters ``(R, P)``, as many rows for each learner.
        gradients: theirs.
        learning_rate: as in ``Adam.step``.
        taught: 1 for learners that move, 0 for those that stay, moments and counts included, ``(K,)``.
    """
    parts = rows, adam.exp_avg, adam.exp_avg_sq, adam.steps
    before = [part.clone() for part in parts]
    adam.step(rows, gradients, learning_rate)
    moves = taught.repeat_interleave(len(rows) // len(taught)).unsqueeze(1) != 0
    for part, was in zip(parts, before, strict=True):
        part.copy_(torch.where(moves, part, was))


def _diagnose(seen: Comparison, weight: Tensor) -> dict[str, Tensor]:
    xi = seen.advantages.mean(1) if seen.advantages.numel() else seen.source_value - seen.own_value
    return {
        "distill/weight_ess": effective_sample_size(weight),
        "distill/weight_max": weight.amax(1),
        "distill/xi_mean": xi.mean(1),
        "distill/xi_std": xi.std(1, correction=0),
    }


def weighted_distance(weight: Tensor, distance: Tensor) -> Tensor:
    """Weight times distance at each state, ``(K, B)``.

    Raises:
        PolicyKDError: the two are not of one shape ``(K, B)``. The released DPD code lost its weights to (B, 1) * (B,).
    """
    if weight.ndim != 2 or weight.shape != distance.shape:
        raise PolicyKDError(
            f"weight: weights and distances must both be (K, B), got {tuple(weight.shape)} and {tuple(distance.shape)}"
        )
    return weight * distance


@torch.no_grad()
def action_distance(learner: Student, states: Tensor, peer_of: Tensor, student_of: Tensor) -> Tensor:
    """Mean Euclidean distance ``(K,)`` of each learner's actions from its peer's at ``states (K, B, O)``."""
    own = learner.outputs(learner.actor, states).actions
    theirs = learner.outputs(learner.actor, states[student_of]).actions[peer_of]
    return (own.clamp(-1, 1) - theirs.clamp(-1, 1)).norm(dim=-1).mean(1)
