"""What PPO's policy networks say: the means of Gaussians over actions, or the logits of choices among them.

A head turns the network's outputs ``(K, B, A)``, and parameters of its own beside the network's, into answers, samples
and probabilities of all learners at once.
"""

from __future__ import annotations

import math
from typing import Protocol

import torch
from torch import Tensor

from policykd.core.networks import PolicyOutput, one_hot

HALF_LOG_2PI = 0.5 * math.log(2 * math.pi)


class Head(Protocol):
    """One kind of policy; ``log_std`` ``(K, n)`` are its own parameters, none where there are none."""

    def own_parameters(self, action_size: int) -> int:
        """Parameters of each learner beside its network's."""

    def answer(self, outputs: Tensor, log_std: Tensor) -> PolicyOutput:
        """The policies with these network outputs ``(K, B, A)``."""

    def sample(self, outputs: Tensor, log_std: Tensor, noise: Tensor) -> Tensor:
        """Sample actions ``(K, B, A)``, given standard normal noise ``(K, B, A)``."""

    def log_prob(self, outputs: Tensor, log_std: Tensor, actions: Tensor) -> Tensor:
        """Log-probability or log-density ``(K, B)`` of actions ``(K, B, A)``."""

    def entropy(self, outputs: Tensor, log_std: Tensor) -> Tensor:
        """Mean entropy of the policies over the batch, ``(K,)``."""


class Gaussian:
    """Independent Gaussians in units of the environment, whose log standard deviations do not depend on the state.

    Args:
        middle: the middle of the bounds ``(A,)``, 0 in [-1, 1].
        half: half their distance ``(A,)``.
    """

    def __init__(self, middle: Tensor, half: Tensor) -> None:
        self.middle, self.half = middle, half

    def own_parameters(self, action_size: int) -> int:
        """One log standard deviation per action dimension."""
        return action_size

    def answer(self, outputs: Tensor, log_std: Tensor) -> PolicyOutput:
        """Means ``(K, B, A)`` and ``log_std (K, A)`` in units of the environment as Gaussians in [-1, 1] units."""
        means, std = (outputs - self.middle) / self.half, (log_std.exp() / self.half).unsqueeze(1)
        return PolicyOutput(means, means, std.expand_as(means))

    def sample(self, outputs: Tensor, log_std: Tensor, noise: Tensor) -> Tensor:
        """Actions in units of the environment, not clipped."""
        return torch.addcmul(outputs, log_std.exp().unsqueeze(1), noise)

    def log_prob(self, outputs: Tensor, log_std: Tensor, actions: Tensor) -> Tensor:
        """Log-density of ``actions`` in units of the environment."""
        log_std = log_std.unsqueeze(1)
        deviations = (actions - outputs) * (-log_std).exp()
        return -(0.5 * deviations.square() + log_std + HALF_LOG_2PI).sum(-1)

    def entropy(self, outputs: Tensor, log_std: Tensor) -> Tensor:
        """Entropy of the policies, the same at every state."""
        return (log_std + 0.5 + HALF_LOG_2PI).sum(1)


class Categorical:
    """Choices of one of A actions; an action is a vector of 1 at the choice and 0 elsewhere."""

    def own_parameters(self, action_size: int) -> int:
        """None, since logits define the policy."""
        return 0

    def answer(self, outputs: Tensor, log_std: Tensor) -> PolicyOutput:
        """Logits, and the most likely action."""
        return PolicyOutput.categorical(outputs)

    def sample(self, outputs: Tensor, log_std: Tensor, noise: Tensor) -> Tensor:
        """The Gumbel-max trick; Phi(noise) is uniform, and its logarithm exact in both tails."""
        gumbel = -(-torch.special.log_ndtr(noise)).log()
        return one_hot(outputs + gumbel)

    def log_prob(self, outputs: Tensor, log_std: Tensor, actions: Tensor) -> Tensor:
        """Log-probability of the choices."""
        return (outputs.log_softmax(-1) * actions).sum(-1)

    def entropy(self, outputs: Tensor, log_std: Tensor) -> Tensor:
        """Mean entropy over the batch."""
        log_probs = outputs.log_softmax(-1)
        return -(log_probs.exp() * log_probs).sum(-1).mean(1)
