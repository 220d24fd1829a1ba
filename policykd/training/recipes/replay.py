"""Off-policy learning: every step goes into the replay, from which gradient steps sample."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from policykd.core.arrays import Array
from policykd.core.draws import standard_normal
from policykd.core.seeding import Generators
from policykd.learners import OffPolicyLearner
from policykd.learners.config import OffPolicyConfig
from policykd.learners.group_targets import to_all_peers, to_sender
from policykd.memory.replay import Batch, SharedReplay
from policykd.training.allocation import Allocation
from policykd.training.collector import Collector, Step
from policykd.training.compiling import record


class LearnFromReplay:
    """Collects transitions of all learners and trains all of them on batches from the replay.

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
        self.info: dict[str, Tensor] = {}
        """Diagnostics of the latest update."""
        self.diagnosing = True
        """Whether a gradient step shall compute what is only logged: until one of distillation has."""
        self.batch: Batch | None = None
        """The latest batch of RL, in whose place the next one goes."""
        self._acted: Callable[[Tensor, Tensor], Tensor] = self.acted
        self.n_steps = learner.settings.get("n_steps")
        self.allocation: Allocation | None = None
        if config.allocation == "best" and peers > 1:
            groups = len(sampling) // peers
            self.allocation = Allocation(groups, peers, config.allocation_floor, config.allocation_episodes)
            collector.set_actors(self.allocation.actor_in)

    def compile(self) -> None:
        """Compile later gradient steps with ``torch.compile``; on a GPU also record acting as a CUDA graph."""
        self.compiled, self._acted = True, record(self.acted, self.learner.actor.device)

    def expect(self, end: int) -> None:
        """Never warns: SB3's agents do not learn before ``learning_starts`` either."""

    def collect(self) -> Step:
        """Step every learner's environments once into the replay."""
        observations = self.collector.observations
        step = self.collector.step(self.act(observations))
        if self.allocation is not None:
            self.allocation.stepped(step.dones, step.ended_returns)
        ended = step.dones & ~step.truncated
        self.replay.add(observations, step.actions, step.next_observations, step.rewards, ended, step.truncated)
        return step

    @property
    def own_steps(self) -> int:
        """Environment steps of each learner so far."""
        return self.collector.run.num_timesteps // self.group_size

    def act(self, observations: Array) -> Array:
        """Actions ``(K * N, A)`` in [-1, 1]: uniform until ``learning_starts``, then with exploration noise."""
        if self.own_steps < self.config.learning_starts:
            shape = self.collector.n_envs, self.learner.action_size
            return np.concatenate([g.uniform(-1, 1, shape) for g in self.exploration]).astype(np.float32)
        return self.act_with_noise(observations)

    def act_with_noise(self, observations: Array) -> Tensor:
        """Actions ``(K * N, A)`` in [-1, 1] with each learner's own exploration noise."""
        n_envs, device = self.collector.n_envs, self.learner.actor.device
        noise = torch.from_numpy(standard_normal(self.exploration, n_envs, self.learner.action_size)).to(device)
        inputs = torch.as_tensor(observations, device=device).view(len(self.exploration), n_envs, -1)
        with torch.no_grad():
            acted: Tensor = self.explore(inputs, noise).flatten(0, 1)
        return acted

    def explore(self, inputs: Tensor, noise: Tensor) -> Tensor:
        """Actions ``(K, N, A)`` at ``inputs (K, N, O)``: each learner's own, or those of the peer allocated to act."""
        if self.allocation is None:
            return self._acted(inputs, noise)
        dealt = torch.from_numpy(self.allocation.acting.ravel()).to(inputs.device)
        return self.proposals(inputs, noise)[torch.arange(len(dealt), device=inputs.device), dealt]

    def acted(self, inputs: Tensor, noise: Tensor) -> Tensor:
        """Every learner's actions ``(K, N, A)`` at its own ``inputs (K, N, O)``; recorded as a CUDA graph on a GPU."""
        return self.learner.explore(self.learner.actor, inputs, noise)

    def proposals(self, inputs: Tensor, noise: Tensor) -> Tensor:
        """Actions ``(K, P, N, A)`` of all P peers of a group in each of its environments, at ``inputs (K, N, O)``."""
        peers = self.group_size
        everybody = to_all_peers(inputs, peers), to_all_peers(noise, peers)
        answers: Tensor = to_sender(self._acted(*everybody), peers)
        return answers.view(len(answers), peers, -1, answers.shape[-1])

    @property
    def rollout_over(self) -> bool:
        """Whether ``train_freq`` steps are done; no update follows before ``learning_starts``."""
        return self.own_steps // self.collector.n_envs % self.config.train_freq == 0

    def improve(self, progress: float, diagnose: bool) -> dict[str, Tensor]:
        """Make the gradient steps that are due after a step of the environments; returns the latest diagnostics."""
        config, info = self.config, dict[str, Tensor]()
        self.diagnosing = self.diagnosing or diagnose
        if self.own_steps <= config.learning_starts or not self.rollout_over:
            return self.info
        if self.learner.settings.scheduled is not None:
            self.learner.settings.advance(progress)
        for _ in range(config.updates_at_once):
            info = {**info, **self.step(progress, self.diagnosing)}
        if self.diagnosing:
            info["train/learning_rate"] = self.learner.settings.rows(self.learner.learning_rate)
        self.diagnosing = self.diagnosing and "distill/loss" not in info
        self.info = {**self.info, **info}
        return self.info

    def step(self, progress: float, diagnose: bool) -> dict[str, Tensor]:
        """One gradient step of every learner; diagnostics ``(K,)``."""
        raise NotImplementedError

    def sample(self, source: Literal["own", "pooled"] = "own") -> Batch:
        """A batch for RL's gradient step."""
        size, n_steps = self.config.batch_size, self.n_steps
        if isinstance(n_steps, Tensor) or n_steps > 1:
            return self.replay.sample_ahead(size, self.sampling, source, n_steps, self.learner.gamma)
        self.batch = self.replay.sample(size, self.sampling, source, into=self.batch)
        return self.batch

    def state(self) -> dict[str, Any]:
        """Number of gradient steps, the latest diagnostics, and who acts."""
        dealt = {} if self.allocation is None else {"allocation": self.allocation.state()}
        return {"n_updates": self.n_updates, "last_update": self.info, "diagnosing": self.diagnosing, **dealt}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a saved state."""
        self.n_updates = state["n_updates"]
        device = self.learner.actor.device
        self.info = {key: value.to(device) for key, value in state.get("last_update", {}).items()}
        self.diagnosing = bool(state.get("diagnosing", True))
        if self.allocation is not None and "allocation" in state:
            self.allocation.restore(state["allocation"])
