"""Learning on policy: a rollout of the current policies, one update from all of it, distillation, and afresh."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from policykd.core.seeding import standard_normal
from policykd.distillation.methods import Method
from policykd.distillation.peer_step import DistillationStep
from policykd.distillation.schedules import SCHEDULES
from policykd.learners.config import PPOConfig
from policykd.learners.ppo import PPO, Minibatch
from policykd.memory.rollout import Rollout, gae
from policykd.training.recipes.stepping import after_step, seen
from policykd.training.recipes.update import Peers, compile_step

if TYPE_CHECKING:
    from policykd.training.agent import Agent


def act(agent: Agent, learner: PPO, inputs: Tensor) -> np.ndarray:
    """Actions ``(K, N, A)`` in units of the environment, not clipped, with each learner's own noise."""
    noise = standard_normal(agent.exploration, agent.n_envs, learner.action_size)
    return learner.sample(inputs, torch.from_numpy(noise).to(inputs.device)).cpu().numpy()


@torch.no_grad()
def collect(agent: Agent, act: Callable[[Agent, PPO, Tensor], np.ndarray] = act) -> dict[str, Any]:
    """One step of all environments of every learner into the rollout; returns what SB3's callbacks look at."""
    learner, envs, shape = agent.learner, agent.get_env(), (agent.n_learners, agent.n_envs, -1)
    assert isinstance(learner, PPO) and agent.last_observations is not None
    observations = torch.from_numpy(agent.last_observations).to(agent.device).view(shape)
    if agent.num_timesteps == 0:
        learner.observe(observations)  # later ones were observed when they came, as VecNormalize does
    inputs = learner.normalise(observations)
    actions = act(agent, learner, inputs)
    # SB3's Gaussian policies are clipped here alone: what is learnt from is the action as it was drawn.
    clipped = agent.action_scale.clip(actions)
    stepped: Any = envs.step(clipped.reshape(envs.num_envs, -1))
    step = *stepped[:3], *after_step(agent, stepped)
    new_observations, rewards, dones, next_observations, truncated = (
        torch.from_numpy(array).to(agent.device).view(shape if array.ndim == 2 else shape[:2]) for array in step
    )
    learner.observe(new_observations)
    rewards = learner.scale_rewards(rewards, dones) * agent.environment_reward
    if truncated.any():  # the episode would have gone on: its value beyond the time limit counts
        rewards = rewards + learner.config.gamma * truncated * learner.values(learner.normalise(next_observations))
    columns = observations, inputs, torch.from_numpy(actions), rewards, dones
    agent.rollout_buffer.add(*(column.cpu().numpy() for column in columns))
    return seen(actions, stepped)


def improve(agent: Agent, diagnose: bool) -> dict[str, Tensor]:
    """The update where the rollout is full; returns the diagnostics of the last one."""
    assert isinstance(agent.update, RolloutUpdate) and agent.last_observations is not None
    if agent.rollout_buffer.full:
        agent.update.step(agent.progress, agent.last_observations)
    return agent.update.info


class RolloutUpdate:
    """Improves all learners by a full rollout: some epochs of PPO in minibatches, then steps of distillation.

    Args:
        learner: the learners.
        method: what they learn from one another.
        config: settings.
        rollout: where their steps are.
        generators: one per learner, for the order of minibatches and the states of distillation.
        peers: learners per group.
        compiled: compile PPO's step with ``torch.compile``.
    """

    def __init__(
        self,
        learner: PPO,
        method: Method,
        config: PPOConfig,
        rollout: Rollout,
        generators: list[np.random.Generator],
        peers: int,
        compiled: bool,
    ) -> None:
        self.learner, self.method, self.config = learner, method, config
        self.rollout, self.generators, self.compiled = rollout, generators, compiled
        self.device = learner.parameters.device
        self.peers = Peers(len(generators), peers, method.source, self.device)
        self.distillation = None
        if method.source and peers > 1:
            optimise = learner.step_actor if config.distill_optimizer == "shared" else None
            self.distillation = DistillationStep(method, config, learner, optimise)
        self.n_updates = 0  # epochs, as SB3 counts them
        self.info: dict[str, Tensor] = {}
        self._learn = compile_step(learner.update, self.device) if compiled else learner.update

    @torch.no_grad()
    def step(self, progress: float, last_observations: np.ndarray) -> None:
        """Learn from the rollout and empty it.

        Args:
            progress: from 0 to 1 over the run, for schedules.
            last_observations: raw observations after the rollout, ``(K * N, O)``.
        """
        batch, explained = self.estimate(last_observations)
        info = self.learn(batch, progress)
        self.n_updates += self.config.n_epochs
        info |= {"train/explained_variance": explained, "train/std": self.learner.log_std.exp().mean(1)}
        if self.distillation is not None and self.n_updates // self.config.n_epochs % self.config.distill_freq == 0:
            info |= self.distil(self.distillation, progress)
        self.info = {**self.info, **info}
        self.rollout.position = 0

    def estimate(self, last_observations: np.ndarray) -> tuple[Minibatch, Tensor]:
        """All steps of the rollout as one batch, ``(K, T * N)``, and how much of the returns the values explain.

        Values and log-probabilities are those of the policies that acted, which have not changed since: all at once
        they cost less than step by step.
        """
        learner, rollout, config = self.learner, self.rollout, self.config
        shape, learners = rollout.rewards.shape, len(rollout.rewards)
        inputs, actions = (
            torch.from_numpy(x).view(learners, -1, x.shape[-1]).to(self.device)
            for x in (rollout.inputs, rollout.actions)
        )
        values = learner.values(inputs)
        last = torch.from_numpy(last_observations).to(self.device).view(learners, shape[2], -1)
        advantages = gae(
            rollout.rewards,
            values.view(shape).cpu().numpy(),
            rollout.dones,
            learner.values(learner.normalise(last)).cpu().numpy(),
            config.gamma,
            config.gae_lambda,
        )
        advantage = torch.from_numpy(advantages).view(learners, -1).to(self.device)
        log_probs = learner.log_prob(learner.means(learner.actor, inputs), learner.log_std, actions)
        returns = advantage + values
        explained = 1 - advantage.var(1) / returns.var(1)
        return Minibatch(inputs, actions, log_probs, advantage, returns), explained

    def learn(self, steps: Minibatch, progress: float, *more: Tensor) -> dict[str, Tensor]:
        """Some passes over ``steps`` in minibatches, which each learner draws in its own order; mean diagnostics.

        Args:
            steps: the rollout.
            progress: from 0 to 1 over the run, for schedules.
            more: what else belongs to each step and goes to the gradient step with it, ``(K, T * N, W)``.
        """
        config = self.config
        learning_rate, clip_range = (
            torch.tensor(value * SCHEDULES[schedule](progress), dtype=self.learner.parameters.dtype, device=self.device)
            for value, schedule in (
                (config.learning_rate, config.learning_rate_schedule),
                (config.clip_range, config.clip_range_schedule),
            )
        )
        # One row per step, so that an epoch's order is one gather.
        table = torch.cat((*steps[:2], *(column.unsqueeze(-1) for column in steps[2:]), *more), dim=-1)
        learners, count, width = table.shape
        first_row = torch.arange(learners, device=self.device).unsqueeze(1) * count
        widths = [steps.inputs.shape[2], steps.actions.shape[2], 3, *(part.shape[2] for part in more)]
        infos: list[dict[str, Tensor]] = []
        for _ in range(config.n_epochs):
            order = torch.from_numpy(np.stack([g.permutation(count) for g in self.generators])).to(self.device)
            shuffled = table.view(-1, width).index_select(0, (order + first_row).view(-1)).view(table.shape)
            for rows in shuffled.split(config.batch_size, dim=1):
                inputs, actions, numbers, *others = rows.split(widths, dim=-1)
                batch = Minibatch(inputs, actions, *numbers.unbind(-1))
                infos.append(self._learn(batch, learning_rate, clip_range, *others))
        return {key: torch.stack([info[key] for info in infos]).mean(0) for key in infos[0]}

    def distil(self, distillation: DistillationStep, progress: float) -> dict[str, Tensor]:
        """Distillation steps at raw states of the rollout, the peers' or the own; diagnostics of the last."""
        config, index = self.config, np.arange(len(self.generators))
        strength = SCHEDULES[config.distill_schedule](progress)
        learning_rate = torch.tensor(config.distill_learning_rate * strength, device=self.device)
        number = self.n_updates // config.n_epochs // config.distill_freq * config.distill_gradient_steps
        info: dict[str, Tensor] = {}
        for i in range(config.distill_gradient_steps):
            turn = (number + i) % len(self.peers.turns)
            source = self.peers.peer_of[turn] if self.method.states == "peer" else index
            states = self.rollout.sample_states(
                config.distill_batch_size, self.generators, source, config.distill_recent
            )
            info = distillation.update(states.to(self.device), *self.peers.turns[turn], learning_rate, True)
        return info
