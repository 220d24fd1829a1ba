"""On-policy learning: collect a rollout with the current policies, run PPO's epochs on it, and repeat."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from policykd.core.arrays import Array
from policykd.core.draws import standard_normal
from policykd.core.fields import value_at
from policykd.core.seeding import Generators
from policykd.distillation.schedules import schedule_of
from policykd.learners.config import PPOConfig
from policykd.learners.ppo import PPO, Minibatch
from policykd.memory.rollout import Rollout, gae
from policykd.training.collector import Collector, Step
from policykd.training.compiling import compile_step

log = logging.getLogger("policykd")


def at(rate: float | Callable[[float], float], progress: float) -> float:
    """The learning rate at this point of the run: a number, or a function of the remaining progress as in SB3."""
    return value_at("learning_rate", rate, 1.0 - progress) if callable(rate) else rate


class LearnFromRollouts:
    """Collects rollouts of all learners, and trains on each with PPO's epochs of minibatches.

    Args:
        learner: the learners.
        config: settings.
        rollout: where their steps go.
        collector: their environments.
        exploration: one generator per learner, for its noise.
        sampling: one generator per learner, for the order of minibatches.
    """

    compiled = False
    pays = True
    """Whether the task's rewards are learnt from."""

    def __init__(
        self,
        learner: PPO,
        config: PPOConfig,
        rollout: Rollout,
        collector: Collector,
        exploration: Generators,
        sampling: Generators,
    ) -> None:
        self.config, self.rollout, self.collector = config, rollout, collector
        self.exploration, self.sampling = exploration, sampling
        self.learner, self.device = self.place_in_episodes(learner), learner.parameters.device
        self.n_updates = 0
        self.info: dict[str, Tensor] = {}
        """Diagnostics of the latest update."""
        self._learn: Callable[..., dict[str, Tensor]] = self.descend

    def place_in_episodes(self, learner: PPO) -> PPO:
        """The learner; a recurrent one is placed in its episodes first."""
        return learner

    def compile(self) -> None:
        """Compile later gradient steps with ``torch.compile``."""
        self.compiled, self._learn = True, compile_step(self.descend, self.device)

    def expect(self, end: int) -> None:
        """Warn if the first rollout is not full by ``end`` steps; SB3 would step on to fill it."""
        run, rollout = self.collector.run, self.rollout
        steps = max(0, end - run.num_timesteps)
        if 0 < -(-steps // run.steps_at_once) < rollout.steps - rollout.position:
            log.warning(
                "learn: these %s steps train nothing: a rollout of n_steps=%s takes %s over all learners of a group: "
                "call learn with more steps, or lower n_steps",
                *(f"{number:,}" for number in (steps, rollout.steps, rollout.steps * run.steps_at_once)),
            )

    @torch.no_grad()
    def collect(self) -> Step:
        """Step all environments of every learner once into the rollout."""
        learner, collector = self.learner, self.collector
        shape = len(self.sampling), collector.n_envs
        observations = self.observed(collector.observations)
        if collector.run.num_timesteps == 0:
            learner.observe(observations)  # later ones were observed as next observations, as VecNormalize does
        inputs = learner.normalise(observations)
        actions = self.act(inputs)
        # Only the environment sees clipped actions, as in SB3: the update uses them as they were sampled.
        step = collector.step(actions.flatten(0, 1), scaled=False)
        learner.observe(self.observed(step.observations))
        dones = torch.from_numpy(step.dones).to(self.device).view(shape)
        rewards = torch.as_tensor(step.rewards, device=self.device).view(shape)
        rewards = learner.scale_rewards(rewards, dones) * self.pays
        if step.truncated.any():  # a time limit is no terminal state: bootstrap from its last observation
            truncated = torch.from_numpy(step.truncated).to(self.device).view(shape)
            next_values = learner.values(learner.normalise(self.observed(step.next_observations)))
            rewards = rewards + learner.config.gamma * truncated * next_values
        self.rollout.add(observations, inputs, actions, rewards, dones)
        return step

    def observed(self, observations: Array) -> Tensor:
        """Raw observations ``(K * N, O)`` as ``(K, N, O)``."""
        return torch.as_tensor(observations, device=self.device).view(len(self.sampling), self.collector.n_envs, -1)

    def act(self, inputs: Tensor) -> Tensor:
        """Actions ``(K, N, A)`` sampled from the policies (``PPO.sample``), with each learner's own noise."""
        noise = standard_normal(self.exploration, inputs.shape[1], self.learner.action_size)
        return self.learner.sample(inputs, torch.from_numpy(noise).to(inputs.device))

    @property
    def rollout_over(self) -> bool:
        """Whether the rollout is full."""
        return self.rollout.full

    def improve(self, progress: float, diagnose: bool) -> dict[str, Tensor]:
        """Update if the rollout is full; returns the diagnostics of the last update."""
        if self.rollout_over:
            self.step(progress)
        return self.info

    @torch.no_grad()
    def step(self, progress: float) -> None:
        """Train on the full rollout and empty it."""
        batch, explained = self.estimate()
        info = self.learn(batch, progress)
        self.n_updates += self.config.n_epochs
        info["train/explained_variance"] = explained
        if not self.learner.discrete:
            info["train/std"] = self.learner.log_std.exp().mean(1)
        self.info = {**self.info, **info, **self.finish(progress)}
        self.rollout.position = 0

    def finish(self, progress: float) -> dict[str, Tensor]:
        """Hook that runs after the epochs of an update; returns diagnostics."""
        return {}

    def descend(self, batch: Minibatch, learning_rate: Tensor, clip_range: Tensor) -> dict[str, Tensor]:
        """One gradient step of every learner: what ``torch.compile`` compiles."""
        return self.learner.update(batch, learning_rate, clip_range)

    def estimate(self) -> tuple[Minibatch, Tensor]:
        """The rollout as one batch ``(K, T * N)`` with advantages and returns, and the explained variance.

        Values and log-probabilities are computed here for all steps at once, which costs less than step by step: the
        policies have not changed since they acted.
        """
        learner, rollout, config = self.learner, self.rollout, self.config
        shape, learners = rollout.rewards.shape, len(rollout.rewards)
        inputs, actions = rollout.inputs.flatten(1, 2), rollout.actions.flatten(1, 2)
        distributions, values = self.distributions(), learner.values(inputs)
        last_values = learner.values(learner.normalise(self.observed(self.collector.observations)))
        advantages = gae(
            self.rewards(distributions), values.view(shape), rollout.dones, last_values, config.gamma, config.gae_lambda
        )
        advantage = advantages.view(learners, -1)
        log_probs = learner.head.log_prob(*distributions, actions)
        returns = advantage + values
        explained = 1 - advantage.var(1) / returns.var(1)
        return Minibatch(inputs, actions, log_probs, advantage, returns), explained

    def rewards(self, distributions: tuple[Tensor, Tensor]) -> Tensor:
        """The rewards ``(K, T, N)`` to learn from; ``distributions`` is what the method of that name returned."""
        return self.rollout.rewards

    def distributions(self) -> tuple[Tensor, Tensor]:
        """Distribution parameters at all steps of the rollout, ``(K, T * N, A)``, for ``PPO.head``."""
        return self.learner.distribution(self.learner.actor, self.rollout.inputs.flatten(1, 2))

    def learn(self, steps: Minibatch, progress: float, *more: Tensor) -> dict[str, Tensor]:
        """Run PPO's epochs over ``steps`` in minibatches, each learner in its own order; returns mean diagnostics.

        Args:
            steps: the rollout.
            progress: fraction of the run that is done, from 0 to 1, for schedules.
            more: further tensors ``(K, T * N, W)`` that are passed to the gradient step with each minibatch.
        """
        config = self.config
        new_tensor = self.learner.parameters.new_tensor
        rate = at(config.learning_rate, progress) * schedule_of(config.learning_rate_schedule)(progress)
        learning_rate = new_tensor(rate)
        clip_range = new_tensor(config.clip_range * schedule_of(config.clip_range_schedule)(progress))
        # One row per step, so that an epoch's order is one gather.
        table = torch.cat((*steps[:2], *(column.unsqueeze(-1) for column in steps[2:]), *more), dim=-1)
        widths = [steps.inputs.shape[2], steps.actions.shape[2], 3, *(part.shape[2] for part in more)]
        infos: list[dict[str, Tensor]] = []
        for _ in range(config.n_epochs):
            for rows in self.minibatches(table):
                inputs, actions, numbers, *others = rows.split(widths, dim=-1)
                batch = Minibatch(inputs, actions, *numbers.unbind(-1))
                infos.append(self._learn(batch, learning_rate, clip_range, *others))
        used = {"train/learning_rate": learning_rate, "train/clip_range": clip_range}
        means = {key: torch.stack([info[key] for info in infos]).mean(0) for key in infos[0]}
        return means | {key: value.repeat(len(table)) for key, value in used.items()}

    def minibatches(self, table: Tensor) -> Iterable[Tensor]:
        """One epoch of the steps ``(K, T * N, W)``: minibatches ``(K, B, W)``, each learner's in its own order."""
        batches: tuple[Tensor, ...] = self.shuffled(table).split(self.config.batch_size, dim=1)
        return batches

    def shuffled(self, table: Tensor) -> Tensor:
        """The rows of ``(K, M, W)`` in a random order, which each learner draws for itself."""
        learners, count, width = table.shape
        order = torch.from_numpy(np.stack([g.permutation(count) for g in self.sampling])).to(self.device)
        first_row = torch.arange(learners, device=self.device).unsqueeze(1) * count
        return table.view(-1, width).index_select(0, (order + first_row).view(-1)).view(table.shape)

    def state(self) -> dict[str, Any]:
        """Number of epochs and the latest diagnostics."""
        return {"n_updates": self.n_updates, "last_update": self.info}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a saved state."""
        self.n_updates = state["n_updates"]
        self.info = {key: value.to(self.device) for key, value in state.get("last_update", {}).items()}
