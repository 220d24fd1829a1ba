"""Copying a peer's critics, beside its policy."""

from __future__ import annotations

import torch
from torch import Tensor

from policykd.core.networks import Adam, gradient
from policykd.distillation.peer_step import masked_adam_step
from policykd.distillation.weights import HasCritics


class CriticStep:
    """Distils every critic from its peer's by the squared error of their values (PIEKD, Hong et al. 2020).

    Target critics follow by tau as usual; the released code copies them.

    Args:
        learner: the learners.
        rest: as in ``PeerStep``.
    """

    def __init__(self, learner: HasCritics, rest: bool = False) -> None:
        self.learner, self.adam, self.rest = learner, Adam(learner.critic), rest
        if rest:
            self.adam.count_by_row()

    def update(
        self,
        states: Tensor,
        actions: Tensor,
        peer_of: Tensor,
        student_of: Tensor,
        taught: Tensor,
        learning_rate: float | Tensor,
    ) -> dict[str, Tensor]:
        """Move every critic towards its peer's at states and actions ``(K, B, ·)``; arguments as in ``PeerStep``.

        ``learning_rate`` is one number, or one per critic ``(K * C, 1)``.
        """
        learner = self.learner
        with torch.no_grad():
            wanted = learner.q_values(learner.critic, states[student_of], actions[student_of])[peer_of]

        def loss(critic: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
            errors = learner.q_values(critic, states, actions) - wanted
            losses = errors.square().sum(1).mean(1) * taught
            return losses, {"distill/critic_loss": losses.detach()}

        gradients, info = gradient(loss, learner.critic)
        if self.rest:
            masked_adam_step(self.adam, learner.critic, gradients, learning_rate, taught)
        else:
            self.adam.step(learner.critic, gradients, learning_rate)
        return info
