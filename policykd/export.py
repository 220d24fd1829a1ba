"""Learners as models of other libraries: one learner becomes a real SB3 ``DDPG`` or ``TD3``, and back."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from stable_baselines3 import DDPG as SB3DDPG
from stable_baselines3 import TD3 as SB3TD3
from stable_baselines3.common.noise import NormalActionNoise
from stable_baselines3.common.vec_env import DummyVecEnv
from torch import Tensor, nn

from policykd.config import TD3Config
from policykd.networks import MLP, Adam

if TYPE_CHECKING:
    from policykd.agents.dual_student import DualStudent
    from policykd.learners import DDPG


def to_sb3(agent: DualStudent, k: int) -> SB3TD3:
    """Learner ``k`` as an SB3 model with its networks, targets, optimisers and counters."""
    config = agent.config
    action_size = agent.action_space.shape[0]
    common: dict[str, Any] = dict(
        learning_rate=config.learning_rate,
        buffer_size=config.buffer_size,
        learning_starts=config.learning_starts,
        batch_size=config.batch_size,
        tau=config.tau,
        gamma=config.gamma,
        train_freq=config.train_freq,
        gradient_steps=config.gradient_steps,
        action_noise=NormalActionNoise(np.zeros(action_size), np.full(action_size, config.action_noise_std)),
        policy_kwargs={"net_arch": list(config.net_arch)},
        device="cpu",
    )
    env = DummyVecEnv([agent.factory])
    if isinstance(config, TD3Config):
        smoothing: dict[str, Any] = {
            "target_policy_noise": config.target_policy_noise,
            "target_noise_clip": config.target_noise_clip,
        }
        model = SB3TD3("MlpPolicy", env, policy_delay=config.policy_delay, **smoothing, **common)
    else:
        model = SB3DDPG("MlpPolicy", env, **common)
    write_sb3(agent.learner, k, model)
    model.num_timesteps = agent.num_timesteps
    model._n_updates = 0 if agent.update is None else agent.update.n_updates
    env.close()
    return model


def write_sb3(learner: DDPG, k: int, model: SB3TD3) -> None:
    """Copy row ``k`` of our networks and optimisers into an SB3 model of the same shape."""
    critics = slice(k * learner.critics, (k + 1) * learner.critics)
    with torch.no_grad():
        for module, rows in _pairs(learner, model, k, critics):
            for parameter, values in zip(module.parameters(), _torch_layout(*rows), strict=True):
                parameter.copy_(values)
    _write_adam(model.actor.optimizer, learner.actor_network, learner.actor_adam, slice(k, k + 1))
    _write_adam(model.critic.optimizer, learner.critic_network, learner.critic_adam, critics)


def read_sb3(learner: DDPG, k: int, model: SB3TD3) -> None:
    """Copy the networks and optimisers of an SB3 model into row ``k`` of ours (optimiser steps are common to rows)."""
    critics = slice(k * learner.critics, (k + 1) * learner.critics)
    with torch.no_grad():
        for module, (_, rows) in _pairs(learner, model, k, critics):
            rows.copy_(_our_layout(list(module.parameters()), len(rows)))
    _read_adam(model.actor.optimizer, learner.actor_adam, slice(k, k + 1))
    _read_adam(model.critic.optimizer, learner.critic_adam, critics)


def _pairs(learner: DDPG, model: SB3TD3, k: int, critics: slice) -> list[tuple[nn.Module, tuple[MLP, Tensor]]]:
    """SB3's four networks beside ours."""
    actor, critic = learner.actor_network, learner.critic_network
    return [
        (model.actor.mu, (actor, learner.actor[k : k + 1])),
        (model.actor_target.mu, (actor, learner.actor_target[k : k + 1])),
        (model.critic, (critic, learner.critic[critics])),
        (model.critic_target, (critic, learner.critic_target[critics])),
    ]


def _torch_layout(network: MLP, rows: Tensor) -> list[Tensor]:
    """Rows ``(C, P)`` as torch's parameters: C networks one after the other, each layer (out, in) and (out,)."""
    layers = [(weight.transpose(1, 2), bias.squeeze(1)) for weight, bias in network.unpack(rows.cpu())]
    return [part[c] for c in range(len(rows)) for layer in layers for part in layer]


def _our_layout(parameters: list[Tensor], networks: int) -> Tensor:
    """Torch's parameters of C networks of one shape as rows ``(C, P)``."""
    flat = torch.cat([(p.t() if p.ndim == 2 else p).reshape(-1) for p in parameters])
    return flat.view(networks, -1)


def _write_adam(optimizer: torch.optim.Optimizer, network: MLP, adam: Adam, rows: slice) -> None:
    moments = zip(
        _torch_layout(network, adam.exp_avg[rows]), _torch_layout(network, adam.exp_avg_sq[rows]), strict=True
    )
    for parameter, (exp_avg, exp_avg_sq) in zip(optimizer.param_groups[0]["params"], moments, strict=True):
        optimizer.state[parameter] = {
            "step": torch.tensor(float(adam.steps)),
            "exp_avg": exp_avg.clone(),
            "exp_avg_sq": exp_avg_sq.clone(),
        }


def _read_adam(optimizer: torch.optim.Optimizer, adam: Adam, rows: slice) -> None:
    states = [optimizer.state[parameter] for parameter in optimizer.param_groups[0]["params"]]
    for name in ("exp_avg", "exp_avg_sq"):
        target = getattr(adam, name)[rows]
        target.copy_(_our_layout([state[name] for state in states], len(target)))
    adam.steps.fill_(float(states[0]["step"]))
