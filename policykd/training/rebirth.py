"""Rebirth: a learner is re-initialised, taught by the best of its group, and takes its settings, perturbed.

Population-based training (Jaderberg et al. 2017) on one replay: what a learner knew is in the replay and in its peers,
and fresh networks learn on where old ones no longer do (Nikishin et al. 2022). Instead of copying weights, the fresh
learner is distilled.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from policykd.core.fields import change
from policykd.core.networks import Adam, adams_of, state_tensors
from policykd.core.seeding import preserve_generators
from policykd.distillation.critic_step import CriticStep
from policykd.distillation.methods import PEER_METHODS
from policykd.distillation.peer_step import PeerStep
from policykd.learners import OffPolicyLearner
from policykd.learners.config import OffPolicyConfig
from policykd.learners.settings import VARIED_ROWS
from policykd.memory.replay import SharedReplay
from policykd.training.allocation import Standings

LEARNING_RATE = 1e-3
"""Adam's learning rate for teaching a re-initialised learner; it decays linearly to 0."""


class Rebirth:
    """Periodically re-initialises one learner of every group.

    Args:
        learner: the learners.
        config: settings.
        replay: their transitions.
        sampling: one generator per learner, for batches.
        standings: ranks peers by training return.
        taught: the optimisers of distillation, reset for a learner that is re-initialised.
    """

    def __init__(
        self,
        learner: OffPolicyLearner,
        config: OffPolicyConfig,
        replay: SharedReplay,
        sampling: list[np.random.Generator],
        standings: Standings,
        taught: list[Adam],
    ) -> None:
        self.learner, self.config, self.replay, self.sampling = learner, config, replay, sampling
        self.standings, self.taught = standings, taught
        self.times = np.zeros(len(sampling) // standings.peers, np.int64)
        """How often it took place in every group ``(G,)``."""
        for adam in (*adams_of(learner), *taught):
            adam.count_by_row()

    def take_place(self) -> list[int]:
        """Re-initialise one learner of each group in which every peer has a training episode to rank it by.

        Returns:
            The indices of those learners. Their earlier episodes no longer count, since another policy played them.
        """
        means, peers = self.standings.means(), self.standings.peers
        known = ~np.isnan(means).any(1)
        if not known.any():
            return []
        first = np.arange(len(means)) * peers
        place = means.argmin(1) if self.config.rebirth == "worst" else self.times % peers
        others = np.where(np.arange(peers) == place[:, None], -np.inf, means)
        reborn, teacher = (first + place)[known], (first + others.argmax(1))[known]
        self.times += known
        with torch.no_grad():
            self._initialise(reborn)
            self._teach(reborn, teacher)
            self._perturb(reborn, teacher)
        self.standings.forget(reborn)
        return [int(k) for k in reborn]

    def _initialise(self, reborn: np.ndarray) -> None:
        """Networks, optimisers and temperature as at the beginning, each drawn by that learner's own generator."""
        learner, size = self.learner, self.learner.action_size
        fresh = type(learner).make(
            self.replay.sections[0],
            size,
            change(self.config, {"vary": {}}),
            [learner.generators[k] for k in reborn],
            learner.actor.device,
            -np.ones(size),
            np.ones(size),
        )
        for adam in adams_of(fresh):
            adam.count_by_row()
        tensors = state_tensors(learner)
        for name, new in state_tensors(fresh).items():
            if new.ndim and len(new) % len(reborn) == 0:
                tensors[name].view(len(self.sampling), -1)[reborn] = new.view(len(reborn), -1)
        for adam in self.taught:
            for tensor in (adam.steps, adam.exp_avg, adam.exp_avg_sq):
                tensor.view(len(self.sampling), -1)[reborn] = 0

    def _teach(self, reborn: np.ndarray, teacher: np.ndarray) -> None:
        """Distil actor and critics of the best into the fresh ones, at states of the whole replay."""
        learner, config, device = self.learner, self.config, self.learner.actor.device
        policy, critics = PeerStep(PEER_METHODS["mutual_shared"], config, learner), CriticStep(learner)
        index, peers = np.arange(len(self.sampling)), self.standings.peers
        shift = np.zeros_like(index)
        for own, best in zip(reborn, teacher, strict=True):
            shift[index // peers == own // peers] = best - own
        peer_of = index // peers * peers + (index + shift) % peers
        turn = (
            torch.from_numpy(peer_of).to(device),
            torch.from_numpy(np.argsort(peer_of)).to(device),
            torch.from_numpy(np.isin(index, reborn).astype(np.float32)).to(device),
        )
        with preserve_generators(self.sampling, ~np.isin(index // peers, reborn // peers)):  # of the other groups
            for done in range(config.rebirth_gradient_steps):
                batch = self.replay.sample(config.batch_size, self.sampling, "pooled")
                rate = torch.tensor(LEARNING_RATE * (1 - done / config.rebirth_gradient_steps), device=device)
                policy.update(batch.observations, *turn, rate, False)
                critics.update(batch.observations, batch.actions, *turn, rate)
        for name in ("actor", "critic"):
            if isinstance(target := getattr(learner, f"{name}_target", None), torch.Tensor):
                rows = getattr(learner, name).view(len(index), -1)[reborn]
                target.view(len(index), -1)[reborn] = rows

    def _perturb(self, reborn: np.ndarray, teacher: np.ndarray) -> None:
        """Varied settings of ``VARIED_ROWS`` become the best peer's, times the perturbation or over it; others stay."""
        learner, factor = self.learner, self.config.rebirth_perturbation
        for name in self.config.vary:
            drawn = torch.tensor([factor if learner.generators[k].random() < 0.5 else 1 / factor for k in reborn])
            for attribute in VARIED_ROWS.get(name, ()):
                rows = getattr(learner, attribute).view(len(self.sampling), -1)
                times = drawn.to(rows).unsqueeze(1)
                best = rows[teacher]
                # A discount is perturbed by its horizon 1 / (1 - gamma); a Polyak coefficient is at most 1.
                rows[reborn] = 1 - (1 - best) * times if name == "gamma" else best * times
                if name in ("gamma", "tau"):
                    rows.clamp_(0.0, 1.0)

    def state(self) -> dict[str, Any]:
        """How often it took place in every group; settings are the learners' own."""
        return {"times": self.times}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a saved state."""
        self.times[:] = state["times"]  # of older checkpoints one number for all groups
