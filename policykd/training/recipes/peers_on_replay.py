"""Off-policy peers: RL gradient steps on a shared replay, and distillation from one another."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from policykd.core.networks import adams_of, load_state_tensors, state_tensors
from policykd.core.seeding import Generators
from policykd.distillation.critic_step import CriticStep
from policykd.distillation.methods import PeerMethod
from policykd.distillation.near_best import NearBest
from policykd.distillation.peer_step import LATEST, Peers, PeerStep, action_distance
from policykd.distillation.schedules import constant, schedule_of
from policykd.learners import OffPolicyLearner
from policykd.learners.config import OffPolicyConfig
from policykd.learners.settings import critic_rows
from policykd.memory.replay import Batch, SharedReplay
from policykd.training.allocation import Standings
from policykd.training.collector import Collector, Step
from policykd.training.compiling import compile_step
from policykd.training.rebirth import Rebirth
from policykd.training.recipes.replay import LearnFromReplay

Turn = tuple[Tensor, Tensor, Tensor]
"""The peer that each learner distils from, the learner that distils from it, and 1 where it distils: ``(K,)``."""


class PeersOnReplay(LearnFromReplay):
    """An RL gradient step, then distillation from a peer if the actors were updated; or both in one loss.

    Args:
        learner: the learners.
        method: what they learn from one another.
        config: settings.
        replay: where their transitions go.
        collector: their environments.
        exploration: one generator per learner, for its noise.
        sampling: one generator per learner, for its batches.
        peers: learners per group.
    """

    def __init__(
        self,
        learner: OffPolicyLearner,
        method: PeerMethod,
        config: OffPolicyConfig,
        replay: SharedReplay,
        collector: Collector,
        exploration: Generators,
        sampling: Generators,
        peers: int,
    ) -> None:
        super().__init__(learner, config, replay, collector, exploration, sampling, peers)
        self.method, self.device = method, learner.actor.device
        self.peers = Peers(len(sampling), peers, method.source, self.device)
        self.standings = Standings(collector.run, peers, config.allocation_episodes)
        distils = method.source is not None and peers > 1
        rest = self.peers.rest
        self.distillation = PeerStep(method, config, learner, rest=rest) if distils else None
        self.critics = CriticStep(learner, rest) if distils and method.copies == "policy and critics" else None
        if self.distillation is not None:
            self.distillation.adam.mask = learner.actor_adam.mask
        if self.critics is not None:
            self.critics.adam.mask = learner.critic_adam.mask
        near = distils and method.adaptive
        self.near = NearBest(learner, peers, config.best_ratio, config.best_distance) if near else None
        self.rebirth = None
        if config.rebirth_freq > 0 and peers > 1:
            taught = adams_of(self.distillation, self.critics)
            self.rebirth = Rebirth(learner, config, replay, sampling, self.standings, taught)
        self.schedule = schedule_of(config.distill_schedule)
        self.steps_per_round = config.distill_gradient_steps if method.coupling == "apart" else 1
        self.distill_rates = torch.as_tensor(learner.settings.get("distill_learning_rate"), device=self.device)
        self.distill_learning_rate = torch.zeros_like(self.distill_rates)
        self.distill_coef = torch.zeros(len(sampling), device=self.device)
        self.strength = -1.0
        """The schedule's value in ``distill_learning_rate`` and ``distill_coef``; -1 before they are first set."""
        self.distil_batch: Batch | None = None
        """The latest distillation batch, which the next one overwrites."""
        learner.judges = peers if method.target == "group" else 1
        learner.proposers = peers if method.target == "actors" else 1
        self._learn = self.learn

    def compile(self) -> None:
        """Compile later updates with ``torch.compile``."""
        super().compile()
        self._learn = compile_step(self.learn, self.device)

    def collect(self) -> Step:
        """Step every learner's environments once into the replay; then one learner per group may be re-initialised."""
        step = super().collect()
        if self.rebirth is not None and self.collector.run.due(self.config.rebirth_freq):
            for learner in self.rebirth.take_place():
                if self.allocation is not None:
                    self.allocation.forget(learner)
        return step

    def explore(self, inputs: Tensor, noise: Tensor) -> Tensor:
        """Actions ``(K, N, A)`` at ``inputs (K, N, O)``: each learner's own, or its favourite of all proposals."""
        if self.method.acting == "own" or self.group_size == 1:
            return super().explore(inputs, noise)
        learner, proposals = self.learner, self.proposals(inputs, noise)
        states = inputs.repeat(1, self.group_size, 1)
        values = learner.q_values(learner.critic, states, proposals.flatten(1, 2)).amin(1)
        favourite = values.view(proposals.shape[:3]).argmax(1)
        chosen: Tensor = proposals.gather(1, favourite[:, None, :, None].expand(-1, 1, -1, proposals.shape[-1]))
        return chosen.squeeze(1)

    def improve(self, progress: float, diagnose: bool) -> dict[str, Tensor]:
        """Make the gradient steps that are due; diagnostics include the distance between peers' actions."""
        info = super().improve(progress, diagnose)
        if diagnose and info and self.group_size > 1:
            peer_of, student_of, _ = self.peers.turns[0]
            states = self.replay.latest(LATEST)
            info["peers/action_distance"] = action_distance(self.learner, states, peer_of, student_of)
        return info

    def step(self, progress: float, diagnose: bool) -> dict[str, Tensor]:
        """One gradient step of every learner and, after each step of the policies, those of distillation."""
        self.n_updates += 1
        config, learner, number = self.config, self.learner, self.n_updates
        update_actor, update_targets = self.flags(number)
        batch, noise = self.sample(self.method.replay), learner.draw_noise(config.batch_size)
        moved = learner.actor_updates(number)
        due = self.distillation is not None and update_actor and moved % config.distill_freq == 0
        first = moved // config.distill_freq * self.steps_per_round
        turn, states = self.turn(first), None
        if due:
            states = self.states(first)
            strength = 1.0 if self.schedule is constant else self.schedule(progress)
            if strength != self.strength:
                self.strength = strength
                torch.mul(self.distill_rates, strength, out=self.distill_learning_rate)
                self.distill_coef.fill_(config.distill_coef * strength)
            if self.near is not None:
                self._update_distill_coef(self.near, states, moved)
        # A compiled step has one graph with all diagnostics in it: they cost it next to nothing.
        flags = update_actor, update_targets, diagnose or self.compiled
        with torch.no_grad():
            info = self._learn(batch, noise, states, turn, *flags)
            if due and self.method.coupling == "apart":
                info |= self.distil_more(first, diagnose)
        return info

    def flags(self, number: int) -> tuple[bool, bool]:
        """Whether gradient step ``number`` (from 1) also updates the actors, and the targets."""
        return self.learner.updates_actor(number), self.learner.updates_targets(number)

    def distil_more(self, first: int, diagnose: bool) -> dict[str, Tensor]:
        """The distillation steps after the first one, number ``first``, which ``learn`` has already made."""
        info: dict[str, Tensor] = {}
        for i in range(first, first + self.config.distill_gradient_steps):
            if i > first:
                info |= self.distil(self.states(i), self.turn(i), diagnose)
            if self.critics is not None:
                info |= self.copy_critics(self.critics, i)
        return info

    def distil(self, states: Tensor, turn: Turn, diagnose: bool) -> dict[str, Tensor]:
        """One gradient step of distillation at ``states (K, B, O)``."""
        assert self.distillation is not None
        return self.distillation.update(states, *turn, self.distill_learning_rate, diagnose)

    def learn(
        self,
        batch: Batch,
        noise: Tensor | None,
        states: Tensor | None,
        turn: Turn,
        update_actor: bool,
        update_targets: bool,
        diagnose: bool,
    ) -> dict[str, Tensor]:
        """The RL gradient step and the first distillation step of every learner: what ``torch.compile`` compiles."""
        if self.distillation is None:
            return self.learner.update(batch, noise, update_actor, update_targets)
        if states is None:
            # Joint coupling divides RL's loss by mean |Q|: also where distillation is not due, as Adam is one for both.
            beside_none = zero_loss if self.method.coupling == "joint" else None
            return self.learner.update(batch, noise, update_actor, update_targets, beside_none)
        if self.method.coupling == "apart":
            info = self.learner.update(batch, noise, update_actor, update_targets)
            return info | self.distil(states, turn, diagnose)
        distance = self.distillation.towards(states, *turn, diagnose)

        def beside(actor: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
            losses, info = distance(actor)
            return self.distill_coef * losses, info

        return self.learner.update(batch, noise, update_actor, update_targets, beside)

    def turn(self, number: int) -> Turn:
        """Who distils from whom in distillation step ``number``."""
        peer_of, student_of, taught = self.peers.turns[number % len(self.peers.turns)]
        if self.method.source == "best":
            best = torch.from_numpy(self.standings.best()).to(self.device)
            taught = taught * (peer_of == best.repeat_interleave(self.group_size))
        return peer_of, student_of, taught

    def states(self, number: int) -> Tensor:
        """States ``(K, B, O)`` at which the learners distil in step ``number``."""
        return self._distil_batch(number).observations

    def _distil_batch(self, number: int) -> Batch:
        self.distil_batch = self.replay.sample(
            self.config.distill_batch_size,
            self.sampling,
            self.method.states,
            peer_of=self.peers.peer_of[number % len(self.peers.peer_of)],
            recent=self.config.distill_recent,
            into=self.distil_batch,
        )
        return self.distil_batch

    def copy_critics(self, critics: CriticStep, number: int) -> dict[str, Tensor]:
        """Distil all critics from their peers' in distillation step ``number``."""
        batch = self._distil_batch(number)
        rate = critic_rows(self.distill_learning_rate, self.learner.critics)
        return critics.update(batch.observations, batch.actions, *self.turn(number), rate)

    def _update_distill_coef(self, near: NearBest, states: Tensor, moved: int) -> None:
        # Where peers differ in gradient steps, the others may move while the count of the busiest one stands still.
        if moved % self.config.best_freq == 0 and self.learner.updates_actor(self.n_updates):
            near.update(states, torch.from_numpy(self.standings.best()).to(self.device))
        torch.mul(near.strength, self.config.distill_coef * self.strength, out=self.distill_coef)

    def state(self) -> dict[str, Any]:
        """Number of gradient steps, the optimisers of distillation, and the re-initialisations so far."""
        parts = {"distillation": self.distillation, "critics": self.critics, "near": self.near}
        kept = {name: state_tensors(part) for name, part in parts.items() if part is not None}
        return super().state() | kept | ({} if self.rebirth is None else {"rebirth": self.rebirth.state()})

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a saved state."""
        super().restore(state)
        for name, part in (("distillation", self.distillation), ("critics", self.critics), ("near", self.near)):
            if part is not None and name in state:
                load_state_tensors(part, state[name])
        if self.rebirth is not None and "rebirth" in state:
            self.rebirth.restore(state["rebirth"])


def zero_loss(actor: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """A distillation loss of 0 for every learner, ``(K,)``."""
    return actor.new_zeros(len(actor)), {}
