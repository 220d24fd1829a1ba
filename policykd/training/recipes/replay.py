"""Learning off policy: every step goes into the replay, and updates sample from it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from policykd.core.seeding import standard_normal
from policykd.learners.config import OffPolicyConfig
from policykd.training.recipes.stepping import after_step, seen
from policykd.training.recipes.update import Update

if TYPE_CHECKING:
    from policykd.training.agent import Agent


def collect(agent: Agent) -> dict[str, Any]:
    """One environment step of every learner into the replay; returns what SB3's callbacks look at."""
    config, observations = agent.config, agent.last_observations
    assert isinstance(config, OffPolicyConfig) and observations is not None
    actions = explore(agent, observations, random=agent.num_timesteps // agent.peers < config.learning_starts)
    stepped = agent.get_env().step_learners(actions)
    next_observations, truncated = after_step(agent, stepped)
    _, rewards, dones, _ = stepped
    agent.replay_buffer.add(observations, actions, next_observations, rewards, dones & ~truncated, truncated)
    return seen(actions, stepped)


def explore(agent: Agent, observations: np.ndarray, random: bool) -> np.ndarray:
    """Actions ``(K, A)`` in [-1, 1]: uniform at first, then what the learners make of each one's own noise."""
    size = agent.action_space.shape[0]
    if random:
        return np.stack([g.uniform(-1, 1, size) for g in agent.exploration]).astype(np.float32)
    noise = torch.from_numpy(standard_normal(agent.exploration, 1, size)).to(agent.device)
    inputs = torch.from_numpy(observations).to(agent.device).unsqueeze(1)
    with torch.no_grad():
        return agent.learner.explore(agent.learner.actor, inputs, noise).squeeze(1).cpu().numpy()


def improve(agent: Agent, diagnose: bool) -> dict[str, torch.Tensor]:
    """The updates that are due after a step."""
    config, steps = agent.config, agent.num_timesteps // agent.peers
    assert isinstance(config, OffPolicyConfig) and isinstance(agent.update, Update)
    info: dict[str, torch.Tensor] = {}
    if steps <= config.learning_starts or steps % config.train_freq:
        return info
    for _ in range(config.gradient_steps):
        info = {**info, **agent.update.step(agent.progress, diagnose)}
    return info
