"""The distillation step of all learners at once (DPD, Lai et al. 2020, section 3.2 and algorithm 1)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

from policykd.core.networks import Adam, PolicyOutput, gradient
from policykd.distillation.divergences import DIVERGENCES
from policykd.distillation.methods import Method
from policykd.distillation.weights import effective_sample_size
from policykd.learners.config import DistillationConfig

Divergence = Callable[[PolicyOutput, PolicyOutput], Tensor]


class Student(Protocol):
    """What distillation needs of a learner."""

    @property
    def actor(self) -> Tensor:
        """The actors' parameters ``(K, P)``, changed in place."""

    def outputs(self, actor: Tensor, observations: Tensor) -> PolicyOutput:
        """What the policies answer at observations ``(K, B, O)``."""

    def value(self, observations: Tensor, policy: PolicyOutput) -> Tensor:
        """V(s) of the policies that answered so, ``(K, B)``."""


class DistillationStep:
    """One gradient step on J = E_s [w(s) D(pi_self(s), pi_peer(s))] per learner, with an optimiser of its own.

    Args:
        method: who copies whom, and how much each state counts.
        config: settings.
        learner: the learners.
        optimise: moves the actors along gradients ``(K, P)`` at a learning rate; None is an Adam of this step alone.
        divergence: distance ``(K, B)`` of a policy from its target; None is what the setting names.
    """

    def __init__(
        self,
        method: Method,
        config: DistillationConfig,
        learner: Student,
        optimise: Callable[[Tensor, Tensor], None] | None = None,
        divergence: Divergence | None = None,
    ) -> None:
        self.method, self.config, self.learner = method, config, learner
        self.divergence = divergence or DIVERGENCES[config.divergence]
        self.adam = Adam(learner.actor)
        self.optimise = optimise or (lambda gradients, rate: self.adam.step(learner.actor, gradients, rate))

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
            learning_rate: a scalar tensor, so that a schedule does not recompile.
            diagnose: also compute what is only logged.
        """
        learner, value = self.learner, None
        with torch.no_grad():
            # The peer acts in its own row, on the states of the learner who copies it; then each learner fetches its
            # peer's answer. This moves states and actions, never weights. Peers get no gradient.
            peer_states = states[student_of]
            peer = learner.outputs(learner.actor, peer_states)
            if self.method.weight is not None:
                value = learner.value(peer_states, peer)[peer_of]
            peer = peer.map(lambda part: part[peer_of])
        return self.copy(states, peer, value, taught, learning_rate, diagnose)

    def copy(
        self,
        states: Tensor,
        target: PolicyOutput,
        target_value: Tensor | None,
        taught: Tensor | None,
        learning_rate: Tensor,
        diagnose: bool,
    ) -> dict[str, Tensor]:
        """Move every actor towards what its source answers at ``states`` and return diagnostics ``(K,)``.

        Args:
            states: observations ``(K, B, O)``.
            target: the source's answers there.
            target_value: the source's values ``(K, B)``; None where no weight asks for them.
            taught: 1 where a learner distils, 0 where it is left alone, ``(K,)``; None is all.
            learning_rate: a scalar tensor.
            diagnose: also compute what is only logged.
        """
        learner, weigh = self.learner, self.method.weight

        def loss(actor: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
            own = learner.outputs(actor, states)
            distance = self.divergence(own, target)
            if distance.shape != states.shape[:2]:  # also where no weight would notice
                raise ValueError(f"a divergence must return (K, B), got {tuple(distance.shape)}")
            info = {}
            if weigh is None or target_value is None:
                weighted = distance
            else:
                own_value = learner.value(states, own.map(Tensor.detach))
                weight = weigh(target_value, own_value, self.config)
                weighted = weighted_distance(weight, distance)
                if diagnose:
                    xi = target_value - own_value
                    info = {
                        "distill/weight_ess": effective_sample_size(weight),
                        "distill/weight_max": weight.amax(1),
                        "distill/xi_mean": xi.mean(1),
                        "distill/xi_std": xi.std(1),
                    }
            losses = weighted.mean(1) if taught is None else weighted.mean(1) * taught
            if diagnose:
                gap = (own.actions.detach() - target.actions).square().sum(-1).sqrt().mean(1)
                info |= {"distill/loss": losses.detach(), "distill/action_gap": gap}
            return losses, info

        gradients, info = gradient(loss, learner.actor)
        self.optimise(gradients, learning_rate)
        return info


def weighted_distance(weight: Tensor, distance: Tensor) -> Tensor:
    """Weight times distance per state, ``(K, B)``; any other shape is refused.

    Raises:
        ValueError: the two are not of one shape ``(K, B)``. The released DPD code lost its weights to (B, 1) * (B,).
    """
    if weight.ndim != 2 or weight.shape != distance.shape:
        raise ValueError(
            f"weights and distances must both be (K, B), got {tuple(weight.shape)} and {tuple(distance.shape)}"
        )
    return weight * distance
