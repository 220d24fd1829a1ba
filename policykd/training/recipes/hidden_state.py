"""What learners with gated recurrent units remember of the episodes that run in training."""

from __future__ import annotations

from typing import Generic, TypeVar

import torch
from torch import Tensor

from policykd.core.recurrent import GRU, SequenceNetwork
from policykd.learners import PPO, OffPolicyLearner
from policykd.learners.sequence_actor import with_actor
from policykd.training.collector import Collector

L = TypeVar("L", bound=OffPolicyLearner | PPO)


class HiddenState(Generic[L]):
    """The state of learners' units before the latest observations, one for every environment.

    Args:
        learner: the learners, whose actor is a ``GRU``.
        collector: the environments.
    """

    def __init__(self, learner: L, collector: Collector) -> None:
        network = learner.actor_network
        assert isinstance(network, GRU)
        self.collector, self.sequences = collector, SequenceNetwork(network)
        self.reader = with_actor(learner, self.sequences)
        """The same learners, which answer where ``sequences`` was placed."""
        self.state = torch.zeros(len(learner.actor), collector.n_envs, network.width, device=learner.actor.device)
        """``(K, N, H)``."""

    def starts(self) -> Tensor:
        """1 where the latest observations are the first of an episode, ``(K, N)``."""
        return torch.from_numpy(self.collector.starts).to(self.state).view(self.state.shape[:2])

    def set_starts(self) -> None:
        """Let ``reader`` answer at the latest observations."""
        self.sequences.set_starts(self.starts().unsqueeze(1), self.state)

    def advance(self) -> None:
        """Remember the latest observations, too, which ``reader`` has just answered."""
        self.state = self.sequences.after

    def restore(self, state: Tensor) -> None:
        """Go on in the middle of episodes of which the learners remember ``state (K, N, H)``."""
        self.state = state.to(self.state)
