"""On-policy peers: PPO updates, each followed by distillation from one another."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor

from policykd.core.networks import load_state_tensors, state_tensors
from policykd.core.seeding import Generators
from policykd.distillation.methods import PeerMethod
from policykd.distillation.peer_step import LATEST, Peers, PeerStep, action_distance
from policykd.distillation.schedules import schedule_of
from policykd.learners.config import PPOConfig
from policykd.learners.ppo import PPO
from policykd.memory.rollout import Rollout
from policykd.training.collector import Collector
from policykd.training.recipes.rollout import LearnFromRollouts


class PeersOnRollouts(LearnFromRollouts):
    """After a PPO update, distillation steps from a peer at raw observations of the rollout.

    Args:
        learner: the learners.
        method: what they learn from one another.
        config: settings.
        rollout: where their steps go.
        collector: their environments.
        exploration: one generator per learner, for its noise.
        sampling: one generator per learner, for minibatches and the states of distillation.
        peers: learners per group.
    """

    def __init__(
        self,
        learner: PPO,
        method: PeerMethod,
        config: PPOConfig,
        rollout: Rollout,
        collector: Collector,
        exploration: Generators,
        sampling: Generators,
        peers: int,
    ) -> None:
        super().__init__(learner, config, rollout, collector, exploration, sampling)
        self.group_size = peers
        self.method, self.peers = method, Peers(len(sampling), peers, method.source, self.device)
        self.distillation, self.schedule = None, schedule_of(config.distill_schedule)
        if method.source and peers > 1:
            optimise = learner.step_actor if config.distill_optimizer == "shared" else None
            self.distillation = PeerStep(method, config, learner, optimise, self.peers.rest)

    def finish(self, progress: float) -> dict[str, Tensor]:
        """Distil every ``distill_freq`` updates; returns the diagnostics of the last step."""
        config, index = self.config, np.arange(len(self.sampling))
        updates = self.n_updates // config.n_epochs
        info: dict[str, Tensor] = {}
        if self.group_size > 1:
            latest = self.rollout.observations.flatten(1, 2)[:, -LATEST:]
            info["peers/action_distance"] = action_distance(self.learner, latest, *self.peers.turns[0][:2])
        if self.distillation is None or updates % config.distill_freq:
            return info
        strength = self.schedule(progress)
        learning_rate = torch.tensor(config.distill_learning_rate * strength, device=self.device)
        number = updates // config.distill_freq * config.distill_gradient_steps
        for i in range(config.distill_gradient_steps):
            turn = (number + i) % len(self.peers.turns)
            source = self.peers.peer_of[turn] if self.method.states == "peer" else index
            states = self.rollout.sample_states(config.distill_batch_size, self.sampling, source, config.distill_recent)
            with self._restore_untaught(self.peers.turns[turn][2]):
                info |= self.distillation.update(states, *self.peers.turns[turn], learning_rate, True)
        return info

    @contextmanager
    def _restore_untaught(self, taught: Tensor) -> Iterator[None]:
        """Restore learners that only teach, since the momentum of PPO's Adam would move them."""
        untaught, adam = torch.flatten(torch.nonzero(taught == 0)), self.learner.adam
        shared = self.config.distill_optimizer == "shared" and len(untaught) > 0
        kept = [(t, t[untaught]) for t in (self.learner.parameters, adam.exp_avg, adam.exp_avg_sq) if shared]
        yield
        for tensor, rows in kept:
            tensor[untaught] = rows

    def state(self) -> dict[str, Any]:
        """The number of epochs, the latest diagnostics, and distillation's optimiser."""
        kept = {} if self.distillation is None else {"distillation": state_tensors(self.distillation)}
        return super().state() | kept

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a saved state."""
        super().restore(state)
        if self.distillation is not None and "distillation" in state:
            load_state_tensors(self.distillation, state["distillation"])
