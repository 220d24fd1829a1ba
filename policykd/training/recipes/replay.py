"""Peers off policy: every step goes into the replay; gradient steps of RL, and of distillation, sample from it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from policykd.core.networks import load_state_tensors, state_tensors
from policykd.core.seeding import standard_normal
from policykd.distillation.methods import PeerMethod
from policykd.distillation.peer_step import Peers, PeerStep
from policykd.distillation.schedules import schedule_of
from policykd.learners import OffPolicyLearner
from policykd.learners.config import OffPolicyConfig
from policykd.memory.replay import Batch, SharedReplay
from policykd.native.draws import Draw
from policykd.training.allocation import Allocation
from policykd.training.collector import Collector, Step
from policykd.training.compiling import compile_step

Generators = list[np.random.Generator]


class LearnFromReplay:
    """Collects steps of all learners, and improves all by gradient steps on batches of them.

    Args:
        learner: the learners.
        config: settings.
        replay: where their transitions go.
        collector: their environments.
        exploration: one generator per learner, for its noise.
        sampling: one generator per learner, for its batches.
        peers: learners per group.
    """

    compiled = False

    def __init__(
        self,
        learner: OffPolicyLearner,
        config: OffPolicyConfig,
        replay: SharedReplay,
        collector: Collector,
        exploration: Generators,
        sampling: Generators,
        peers: int = 1,
    ) -> None:
        self.learner, self.config, self.replay, self.collector = learner, config, replay, collector
        self.exploration, self.sampling, self.group_size = exploration, sampling, peers
        self.n_updates = 0
        self.allocation: Allocation | None = None
        if config.allocation == "best" and peers > 1:
            groups = len(sampling) // peers
            self.allocation = Allocation(groups, peers, config.allocation_floor, config.allocation_episodes)
            collector.actor_in = self.allocation.actor_in

    def collect(self) -> Step:
        """One environment step of every learner into the replay."""
        observations = self.collector.observations
        step = self.collector.step(self.act(observations))
        if self.allocation is not None:
            ended_returns = {int(e): step.infos[e]["episode"]["r"] for e in np.flatnonzero(step.dones)}
            self.allocation.stepped(step.dones, ended_returns)
        ended = step.dones & ~step.truncated
        self.replay.add(observations, step.actions, step.next_observations, step.rewards, ended, step.truncated)
        return step

    def act(self, observations: np.ndarray) -> np.ndarray:
        """Actions ``(K, A)`` in [-1, 1]: uniform at first, then what the learners make of each one's own noise."""
        size, learner = self.learner.action_size, self.learner
        if self.collector.run.num_timesteps // self.group_size < self.config.learning_starts:
            return np.stack([g.uniform(-1, 1, size) for g in self.exploration]).astype(np.float32)
        device = learner.actor.device
        noise = torch.from_numpy(standard_normal(self.exploration, 1, size)).to(device)
        inputs = torch.from_numpy(observations).to(device).unsqueeze(1)
        with torch.no_grad():
            if self.allocation is not None:
                return self._act_as_dealt(self.allocation, inputs, noise)
            return learner.explore(learner.actor, inputs, noise).squeeze(1).cpu().numpy()

    def _act_as_dealt(self, allocation: Allocation, inputs: Tensor, noise: Tensor) -> np.ndarray:
        """Every peer answers at all states of its group, and the one that acts there is heard: ``(K, A)``."""
        learner, peers = self.learner, self.group_size
        everybody = [
            part.view(-1, 1, peers, part.shape[-1]).expand(-1, peers, -1, -1).flatten(0, 1) for part in (inputs, noise)
        ]
        answers = learner.explore(learner.actor, everybody[0], everybody[1]).unflatten(0, (-1, peers))
        heard = np.arange(len(answers))[:, None], allocation.acting, np.arange(peers)[None]
        actions: np.ndarray = answers.cpu().numpy()[heard].reshape(len(inputs), -1)
        return actions

    def improve(self, progress: float, diagnose: bool) -> dict[str, Tensor]:
        """The gradient steps that are due after a step of the environments."""
        config, own_steps = self.config, self.collector.run.num_timesteps // self.group_size
        info: dict[str, Tensor] = {}
        if own_steps <= config.learning_starts or own_steps % config.train_freq:
            return info
        self.learner.settings.advance(progress)
        return self.steps(config.gradient_steps, progress, diagnose)

    def steps(self, count: int, progress: float, diagnose: bool) -> dict[str, Tensor]:
        """So many gradient steps of every learner; diagnostics ``(K,)``."""
        raise NotImplementedError

    def state(self) -> dict[str, Any]:
        """The number of gradient steps, and who acts."""
        dealt = {} if self.allocation is None else {"allocation": self.allocation.state()}
        return {"n_updates": self.n_updates, **dealt}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a saved state."""
        self.n_updates = state["n_updates"]
        if self.allocation is not None and "allocation" in state:
            self.allocation.restore(state["allocation"])


class PeersOnReplay(LearnFromReplay):
    """One gradient step of RL, then, where the policies moved, one of distillation from a peer.

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
        self.method, device = method, learner.actor.device
        self.peers = Peers(len(sampling), peers, method.source, device)
        self.distillation = PeerStep(method, config, learner) if method.source and peers > 1 else None
        self.schedule = schedule_of(config.distill_schedule)
        self.distill_rates = torch.as_tensor(learner.settings.get("distill_learning_rate"), device=device)
        self.distill_learning_rate = torch.zeros_like(self.distill_rates)
        learner.judges = peers if method.target == "group" else 1
        self._learn = self.learn
        self._samplers: dict[tuple[int | None, ...], Callable[[], list[Batch]]] = {}

    def compile(self) -> None:
        """From now on compute with ``torch.compile``."""
        self.compiled, self._learn = True, compile_step(self.learn, self.learner.actor.device)

    def steps(self, count: int, progress: float, diagnose: bool) -> dict[str, Tensor]:
        """Gradient steps of every learner, each followed by one of distillation where the policies moved."""
        learner, batch_size, first = self.learner, self.config.batch_size, self.n_updates + 1
        plans = [self.plan(number) for number in range(first, first + count)]
        batches = iter(self.sample(tuple(turn for *_, turn in plans)))
        if self.distillation is not None:
            torch.mul(self.distill_rates, self.schedule(progress), out=self.distill_learning_rate)
        info: dict[str, Tensor] = {}
        with torch.no_grad():
            for update_actor, update_targets, turn in plans:
                self.n_updates += 1
                batch, noise = next(batches), learner.draw_noise(batch_size)
                states = None if turn is None else next(batches).observations
                # A compiled step has one graph with all diagnostics in it: they cost it next to nothing.
                flags = update_actor, update_targets, diagnose or self.compiled
                info |= self._learn(batch, noise, states, self.peers.turns[turn or 0], *flags)
        return info

    def plan(self, number: int) -> tuple[bool, bool, int | None]:
        """Whether gradient step ``number`` updates the actors and the targets, and whom learners then copy, if any."""
        learner, turn = self.learner, None
        update_actor = learner.updates_actor(number)
        if self.distillation is not None and update_actor:
            turn = learner.actor_updates(number) % len(self.peers.turns)
        return update_actor, learner.updates_targets(number), turn

    def sample(self, turns: tuple[int | None, ...]) -> list[Batch]:
        """The batches of some gradient steps in one call: of RL and, where learners copy, of distillation."""
        if turns not in self._samplers:
            self._samplers[turns] = self.replay.sampler(self.sampling, *self.draws(turns))
        return self._samplers[turns]()

    def draws(self, turns: tuple[int | None, ...]) -> list[Draw]:
        """What ``sample`` draws."""
        config, method, replay = self.config, self.method, self.replay
        found = []
        for turn in turns:
            found.append(replay.draw(config.batch_size, method.replay))
            if turn is not None:
                peer_of, size, recent = self.peers.peer_of[turn], config.distill_batch_size, config.distill_recent
                found.append(replay.draw(size, method.states, peer_of=peer_of, recent=recent))
        return found

    def learn(
        self,
        batch: Batch,
        noise: Tensor | None,
        states: Tensor | None,
        turn: tuple[Tensor, Tensor, Tensor],
        update_actor: bool,
        update_targets: bool,
        diagnose: bool,
    ) -> dict[str, Tensor]:
        """Both gradient steps of every learner; what ``torch.compile`` compiles."""
        info = self.learner.update(batch, noise, update_actor, update_targets)
        if self.distillation is not None and states is not None:
            info |= self.distillation.update(states, *turn, self.distill_learning_rate, diagnose)
        return info

    def state(self) -> dict[str, Any]:
        """The number of gradient steps, and distillation's optimiser."""
        kept = {} if self.distillation is None else {"distillation": state_tensors(self.distillation)}
        return super().state() | kept

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a saved state."""
        super().restore(state)
        if self.distillation is not None and "distillation" in state:
            load_state_tensors(self.distillation, state["distillation"])
