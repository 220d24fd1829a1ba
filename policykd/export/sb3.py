"""Converts learners to SB3 models and back: ``DDPG``, ``TD3`` or ``SAC`` (for PPO see sb3_ppo)."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable
from contextlib import closing
from functools import partial
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3 import DDPG as SB3DDPG
from stable_baselines3 import PPO as SB3PPO
from stable_baselines3 import SAC as SB3SAC
from stable_baselines3 import TD3 as SB3TD3
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.noise import NormalActionNoise
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv
from torch import Tensor

from policykd.core.errors import PolicyKDError
from policykd.core.fields import change, require
from policykd.core.networks import MLP, Adam, Network
from policykd.export import sb3_ppo
from policykd.export.deployed import ACTIVATIONS
from policykd.export.exportable import Exportable
from policykd.export.zoo_settings import policy_of
from policykd.learners import DDPG, PPO, SAC, OffPolicyLearner
from policykd.learners.config import Config, DDPGConfig, PPOConfig
from policykd.learners.settings import VARIED_ROWS
from policykd.tasks.groups import OwnSpace, in_turn
from policykd.tasks.spaces import DiscreteActions

log = logging.getLogger("policykd")

MODELS: dict[str, Callable[..., Any]] = {"ddpg": SB3DDPG, "td3": SB3TD3, "sac": SB3SAC}
"""SB3's class for every backbone."""

COMMON_SETTINGS = (
    "learning_rate",
    "buffer_size",
    "learning_starts",
    "batch_size",
    "tau",
    "gamma",
    "train_freq",
    "gradient_steps",
)
OWN_SETTINGS: dict[str, tuple[str, ...]] = {
    "ddpg": (),
    "td3": ("policy_delay", "target_policy_noise", "target_noise_clip"),
    "sac": ("ent_coef", "target_entropy", "target_update_interval"),
}
"""Further settings of each backbone that its SB3 class has under the same names."""

PLAIN: dict[str, Any] = {"layer_norm": False, "network": None, "critic_network": None}
"""Network settings that correspond to SB3's ``MlpPolicy``."""


def make_model(backbone: str, config: Config, env: VecEnv, seed: int | None = None) -> Any:
    """A new SB3 ``BaseAlgorithm`` for a backbone with our settings, on the CPU.

    Raises:
        PolicyKDError: SB3 cannot train with these settings.
    """
    check_trained_by_sb3(config)
    if isinstance(config, PPOConfig):
        return SB3PPO(policy_of(env.observation_space), env, seed=seed, device="cpu", **sb3_ppo.sb3_settings(config))
    settings: dict[str, Any] = {name: getattr(config, name) for name in (*COMMON_SETTINGS, *OWN_SETTINGS[backbone])}
    if isinstance(config, DDPGConfig) and config.action_noise_std > 0:  # SB3's default is no noise
        size = env.action_space.shape or ()
        settings["action_noise"] = NormalActionNoise(np.zeros(size), np.full(size, config.action_noise_std))
    if config.n_steps > 1:
        known = "n_steps" in inspect.signature(MODELS[backbone]).parameters
        require(known, "n_steps", config.n_steps, "does not exist in this stable-baselines3: install a newer one")
        settings["n_steps"] = config.n_steps
    policy = {"net_arch": list(config.net_arch), "activation_fn": ACTIVATIONS[config.activation_fn]}
    kind = policy_of(env.observation_space)
    return MODELS[backbone](kind, env, policy_kwargs=policy, seed=seed, device="cpu", **settings)


def check_trained_by_sb3(config: Config) -> None:
    """Refuse networks that SB3's ``MlpPolicy`` does not support.

    Raises:
        PolicyKDError: names the setting.
    """
    for name, plain in PLAIN.items():
        value = getattr(config, name)
        require(
            value == plain, name, value, "does not apply to SB3 agents, whose networks are plain MLPs: leave it out"
        )


def learner_config(agent: Exportable, k: int) -> Config:
    """The settings of learner ``k``; those that vary between peers come from its rows, which rebirth may move."""
    own: dict[str, Any] = {}
    for name, values in getattr(agent.config, "vary", {}).items():
        place = VARIED_ROWS.get(name, ("",))[0]
        rows = agent.recipe.n_steps if name == "n_steps" else getattr(agent.learner, place, None)
        if name != "observations":  # this one is in the weights
            given, row = values[k % len(values)], None if rows is None else rows.flatten()[k].item()
            own[name] = given if row is None or np.float32(given) == np.float32(row) else row
    return change(agent.config, {**own, "vary": {}}) if own else agent.config


def vec_env(env: VecEnv, config: Config) -> VecEnv:
    """``env`` with the normalisation of these settings, if any."""
    return sb3_ppo.vec_env(env, config) if isinstance(config, PPOConfig) else env


def no_twin(agent: Exportable) -> str | None:
    """Why an agent's learners cannot be converted to SB3; None if they can."""
    learner, scale = agent.learner, agent.action_scale
    networks = getattr(learner, "actor_network", None), getattr(learner, "critic_network", None)
    if learner.sb3 is None or not all(isinstance(network, MLP) and not network.layer_norm for network in networks):
        return f"{agent.backbone} with these networks has no equivalent in Stable-Baselines3"
    if isinstance(scale, DiscreteActions) and scale.start != 0:  # SB3's check_env also refuses Discrete(n, start=...)
        return f"the actions of {agent.env_id} start at {scale.start}, but those of Stable-Baselines3's agents at 0"
    return None


def to_sb3(agent: Exportable, k: int) -> BaseAlgorithm:
    """Learner ``k`` as an SB3 model with its networks, targets, optimisers and counters.

    PPO's ``VecNormalize``, if any, is ``model.get_vec_normalize_env()``.
    """
    learner = agent.learner
    if reason := no_twin(agent):
        raise PolicyKDError(f"export: {reason}: use onnx or torchscript, which take LayerNorm and gru, too")
    assert learner.sb3 is not None
    config = change(learner_config(agent, k), PLAIN)  # custom network functions have made plain networks
    with closing(vec_env(DummyVecEnv([partial(env_for_sb3, agent)] * config.n_envs), config)) as env:
        with torch.random.fork_rng(devices=[]):  # initial weights are overwritten: do not advance the user's generator
            model = make_model(learner.sb3, config, env)
        if isinstance(learner, PPO):
            sb3_ppo.write_sb3(learner, k, model)
        else:
            assert isinstance(learner, OffPolicyLearner)
            write_sb3(learner, k, model)
        model.num_timesteps = agent.num_timesteps
        model._n_updates = agent.recipe.n_updates
        if isinstance(learner, OffPolicyLearner) and learner.critic_adam.steps.ndim:  # peers at their own pace
            model._n_updates = int(learner.critic_adam.steps_of(k * learner.critics))
        if model.get_vec_normalize_env() is not None:
            # On-policy agents have this only if trained on a VecNormalize, by which readers recognise them.
            rows = np.zeros((env.num_envs, spaces.flatdim(model.observation_space)), np.float32)
            model._last_original_obs = unflatten_for_sb3(model.observation_space, rows)
    return model


def env_for_sb3(agent: Exportable) -> gym.Env:
    """The task with a learner's view, in its original axes and groups if SB3's policies flatten them alike."""
    env, shown = agent.factory(), agent.view.shown
    return env if shown is None else UnflattenObservation(env, shown)


class UnflattenObservation(gym.ObservationWrapper):
    """Restores the original axes and groups of a flattened task."""

    def __init__(self, env: gym.Env, space: OwnSpace) -> None:
        super().__init__(env)
        self.observation_space = space

    def observation(self, observation: np.ndarray) -> Any:
        """Unflatten one observation ``(O,)``."""
        return unflatten_for_sb3(self.observation_space, observation)


def unflatten_for_sb3(space: gym.Space, rows: np.ndarray) -> Any:
    """Unflatten observations ``(..., O)`` to a box, or a dict of boxes, that SB3 flattens in the same way."""
    if isinstance(space, spaces.Dict):
        columns = in_turn({key: spaces.flatdim(part) for key, part in space.items()})
        return {key: unflatten_for_sb3(part, rows[..., list(columns[key])]) for key, part in space.items()}
    return rows.reshape(*rows.shape[:-1], *(space.shape or ()))


def warn_of_normaliser(model: BaseAlgorithm) -> None:
    """Warn if a model expects normalised observations, since its zip will not hold the normaliser."""
    normalizer = model.get_vec_normalize_env()
    if normalizer is not None and normalizer.norm_obs:
        log.warning(
            "to_sb3: this agent needs normalised observations, but its zip has no normaliser: write both "
            "with policykd.export.zoo.to_zip, or keep get_vec_normalize_env()"
        )


def write_sb3(learner: OffPolicyLearner, k: int, model: Any) -> None:
    """Copy row ``k`` of our networks, temperature and optimisers into an SB3 model of the same shape."""
    with torch.no_grad():
        for parameters, rows, layout in _networks(learner, k, model):
            for parameter, values in zip(parameters, layout.to_torch(rows), strict=True):
                parameter.copy_(values)
    for optimizer, adam, at, layout in _optimizers(learner, k, model):
        moments = zip(layout.to_torch(adam.exp_avg[at]), layout.to_torch(adam.exp_avg_sq[at]), strict=True)
        for parameter, (exp_avg, exp_avg_sq) in zip(optimizer.param_groups[0]["params"], moments, strict=True):
            optimizer.state[parameter] = {
                "step": torch.tensor(adam.steps_of(at.start)),
                "exp_avg": exp_avg.clone(),
                "exp_avg_sq": exp_avg_sq.clone(),
            }


def read_sb3(learner: OffPolicyLearner, k: int, model: Any) -> None:
    """Copy an SB3 model's networks, temperature and optimisers into row ``k`` (rows share optimiser steps)."""
    with torch.no_grad():
        for parameters, rows, layout in _networks(learner, k, model):
            rows.copy_(layout.to_rows(list(parameters), len(rows)))
    for optimizer, adam, at, layout in _optimizers(learner, k, model):
        states = [optimizer.state[parameter] for parameter in optimizer.param_groups[0]["params"]]
        for name in ("exp_avg", "exp_avg_sq"):
            target = getattr(adam, name)[at]
            target.copy_(layout.to_rows([state[name] for state in states], len(target)))
        adam.steps.fill_(float(states[0]["step"]))


class _Layout(NamedTuple):
    """Correspondence of rows to torch's parameters: network after network, each layer (out, in) and (out,)."""

    network: Network | None = None
    """None: a row is a single scalar parameter."""
    heads: int = 1
    """Number of layers into which SB3 splits the last one: SAC's mean and log standard deviation."""

    def to_torch(self, rows: Tensor) -> list[Tensor]:
        """Rows ``(C, P)`` as the parameters of C networks."""
        if self.network is None:
            return list(rows.cpu())
        assert isinstance(self.network, MLP)  # checked by to_sb3
        layers = [(weight.transpose(1, 2), bias.squeeze(1)) for weight, bias in self.network.unpack(rows.cpu())]
        weight, bias = layers.pop()
        layers += zip(weight.chunk(self.heads, dim=1), bias.chunk(self.heads, dim=1), strict=True)
        return [part[c] for c in range(len(rows)) for layer in layers for part in layer]

    def to_rows(self, parameters: list[Tensor], networks: int) -> Tensor:
        """The parameters of C networks as rows ``(C, P)``; with several heads only one network."""
        if self.heads > 1:
            last = parameters[-2 * self.heads :]
            parameters = [*parameters[: -2 * self.heads], torch.cat(last[::2]), torch.cat(last[1::2])]
        flat = torch.cat([(p.t() if p.ndim == 2 else p).reshape(-1) for p in parameters])
        return flat.view(networks, -1)


def _networks(learner: OffPolicyLearner, k: int, model: Any) -> list[tuple[list[Tensor], Tensor, _Layout]]:
    """SB3's parameters with our rows and their layout."""
    actor, critics = _actor_layout(learner), slice(k * learner.critics, (k + 1) * learner.critics)
    critic = _Layout(learner.critic_network)
    result = [
        (list(model.actor.parameters()), learner.actor[k : k + 1], actor),
        (list(model.critic.parameters()), learner.critic[critics], critic),
        (list(model.critic_target.parameters()), learner.critic_target[critics], critic),
    ]
    if isinstance(learner, DDPG):
        result.append((list(model.actor_target.parameters()), learner.actor_target[k : k + 1], actor))
    if isinstance(learner, SAC) and learner.learns_ent_coef:
        result.append(([model.log_ent_coef], learner.log_ent_coef[k : k + 1], _Layout()))
    return result


def _optimizers(
    learner: OffPolicyLearner, k: int, model: Any
) -> list[tuple[torch.optim.Optimizer, Adam, slice, _Layout]]:
    """SB3's optimisers with ours, and the learner's rows in them."""
    own, critics = slice(k, k + 1), slice(k * learner.critics, (k + 1) * learner.critics)
    result = [
        (model.actor.optimizer, learner.actor_adam, own, _actor_layout(learner)),
        (model.critic.optimizer, learner.critic_adam, critics, _Layout(learner.critic_network)),
    ]
    if isinstance(learner, SAC) and learner.learns_ent_coef:
        result.append((model.ent_coef_optimizer, learner.ent_coef_adam, own, _Layout()))
    return result


def _actor_layout(learner: OffPolicyLearner) -> _Layout:
    return _Layout(learner.actor_network, heads=2 if learner.gaussian else 1)
