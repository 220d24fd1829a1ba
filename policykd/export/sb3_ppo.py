"""Converts a PPO learner to an SB3 ``PPO`` with its ``VecNormalize``, and back."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from stable_baselines3 import PPO as SB3PPO
from stable_baselines3.common.vec_env import VecEnv, VecNormalize
from torch import Tensor

from policykd.core.networks import MLP, Network
from policykd.core.normaliser import RunningMeanStd
from policykd.export.deployed import ACTIVATIONS
from policykd.learners.config import PPOConfig
from policykd.learners.ppo import PPO

COMMON_SETTINGS = (
    *("n_steps", "batch_size", "n_epochs", "gamma", "gae_lambda", "normalize_advantage"),
    *("ent_coef", "vf_coef", "max_grad_norm"),
)
"""Settings with the same name and meaning in both."""


def sb3_settings(config: PPOConfig) -> dict[str, Any]:
    """The arguments of SB3's ``PPO`` for these settings."""
    policy = {
        "net_arch": list(config.net_arch),
        "activation_fn": ACTIVATIONS[config.activation_fn],
        "ortho_init": config.ortho_init,
        "log_std_init": config.log_std_init,
    }
    return {
        **{name: getattr(config, name) for name in COMMON_SETTINGS},
        "learning_rate": config.learning_rate
        if callable(config.learning_rate)
        else _schedule(config.learning_rate, config.learning_rate_schedule),
        "clip_range": _schedule(config.clip_range, config.clip_range_schedule),
        "policy_kwargs": policy,
    }


def vec_env(env: VecEnv, config: PPOConfig) -> VecEnv:
    """``env`` with the normalisation of these settings, if any."""
    if not (config.normalize_observation or config.normalize_reward):
        return env
    wanted = {"norm_obs": config.normalize_observation, "norm_reward": config.normalize_reward}
    return VecNormalize(env, gamma=config.gamma, **wanted)  # type: ignore[arg-type]


def write_sb3(learner: PPO, k: int, model: SB3PPO) -> None:
    """Copy row ``k`` of our networks, optimiser and statistics into an SB3 model of the same shape."""
    adam, normalizer = learner.adam, model.get_vec_normalize_env()
    rows = (_to_torch(learner, tensor[k]) for tensor in (learner.parameters, adam.exp_avg, adam.exp_avg_sq))
    with torch.no_grad():
        for parameter, value, exp_avg, exp_avg_sq in zip(model.policy.parameters(), *rows, strict=True):
            parameter.copy_(value)
            state = {"step": torch.tensor(float(adam.steps)), "exp_avg": exp_avg, "exp_avg_sq": exp_avg_sq}
            model.policy.optimizer.state[parameter] = state
    if normalizer is None:
        return
    _write_statistics(learner.return_stats, k, [normalizer.ret_rms])
    if normalizer.norm_obs:
        theirs = normalizer.obs_rms
        _write_statistics(learner.observation_stats, k, [*theirs.values()] if isinstance(theirs, dict) else [theirs])
    normalizer.returns = learner.discounted_rewards[k].cpu().numpy().copy()


def _write_statistics(ours: RunningMeanStd, k: int, theirs: list[Any]) -> None:
    """Copy row ``k`` of our statistics into SB3's, group by group."""
    for name in ("mean", "var"):
        row, shapes = getattr(ours, name)[k].cpu().numpy().ravel(), [np.shape(getattr(group, name)) for group in theirs]
        parts = np.split(row, np.cumsum([math.prod(shape) for shape in shapes])[:-1])
        for group, part, shape in zip(theirs, parts, shapes, strict=True):
            setattr(group, name, part.reshape(shape).copy())
    for group in theirs:
        group.count = float(ours.count)


def read_sb3(learner: PPO, k: int, model: SB3PPO) -> None:
    """Copy an SB3 model's networks and optimiser into row ``k`` (rows share optimiser steps)."""
    parameters: list[Tensor] = list(model.policy.parameters())
    states = [model.policy.optimizer.state[parameter] for parameter in parameters]
    with torch.no_grad():
        learner.parameters[k] = _to_row(learner, parameters)
        if states[0]:
            learner.adam.exp_avg[k] = _to_row(learner, [state["exp_avg"] for state in states])
            learner.adam.exp_avg_sq[k] = _to_row(learner, [state["exp_avg_sq"] for state in states])
            learner.adam.steps.fill_(float(states[0]["step"]))


def _to_torch(learner: PPO, row: Tensor) -> list[Tensor]:
    """A row ``(P,)`` as SB3's parameters: log_std, hidden layers of policy and value network, their last layers.

    Policies with discrete actions have no log_std.
    """
    actor, log_std, critic = row.cpu().split(learner.sizes)
    actor_layers, critic_layers = _layers(learner.actor_network, actor), _layers(learner.critic_network, critic)
    own = [log_std.clone()] if len(log_std) else []
    return [*own, *actor_layers[:-2], *critic_layers[:-2], *actor_layers[-2:], *critic_layers[-2:]]


def _to_row(learner: PPO, parameters: list[Tensor]) -> Tensor:
    """SB3's parameters as a row ``(P,)``."""
    own, rest = ([], parameters) if learner.discrete else (parameters[:1], parameters[1:])
    hidden = 2 * len(learner.config.net_arch)
    actor = [*rest[:hidden], *rest[-4:-2]]
    critic = [*rest[hidden : 2 * hidden], *rest[-2:]]
    return torch.cat([part.t().reshape(-1) if part.ndim == 2 else part for part in (*actor, *own, *critic)])


def _layers(network: Network, row: Tensor) -> list[Tensor]:
    """A row ``(P,)`` as torch's parameters of each layer: (out, in) and (out,)."""
    assert isinstance(network, MLP)  # checked by to_sb3
    parts = ((weight[0].t(), bias.view(-1)) for weight, bias in network.unpack(row.unsqueeze(0)))
    return [part.clone() for pair in parts for part in pair]


def _schedule(value: float, name: str) -> float | Callable[[float], float]:
    """As an SB3 schedule, a function of the remaining progress from 1 to 0."""
    return value if name == "constant" else lambda remaining: remaining * value
