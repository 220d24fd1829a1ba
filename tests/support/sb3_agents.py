"""Small agents of SB3 and tasks for the tests of teachers, and peers for those of exports."""

import gymnasium as gym
import numpy as np
import sb3_contrib
import stable_baselines3
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize
from torch import nn

from policykd import DualStudent

OBSERVATIONS, ACTIONS = 5, 2


class Lopsided(gym.Env):
    """Bounds that are not symmetric, so that no scaling is forgotten; the reward is minus the distance from 0.3."""

    observation_space = gym.spaces.Box(-np.inf, np.inf, (OBSERVATIONS,), np.float32)
    action_space = gym.spaces.Box(np.array([-2.0, -1.0], np.float32), np.array([0.5, 3.0], np.float32))

    def __init__(self):
        self.steps = 0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.steps = 0
        return self._observe(), {}

    def step(self, action):
        self.steps += 1
        return self._observe(), -float(np.abs(action - 0.3).sum()), False, self.steps >= 10, {}

    def _observe(self):
        return (3 + 2 * self.np_random.standard_normal(OBSERVATIONS)).astype(np.float32)


SMALL = {"net_arch": [8, 6]}
AGENTS = {
    "PPO": ("PPO", SMALL),
    "PPO, ReLU, apart": ("PPO", {"net_arch": {"pi": [8], "vf": [4, 4]}, "activation_fn": nn.ReLU}),
    "PPO, ELU": ("PPO", {**SMALL, "activation_fn": nn.ELU}),
    "PPO, no hidden layer": ("PPO", {"net_arch": []}),
    "PPO, gSDE": ("PPO", {**SMALL, "use_sde": True, "log_std_init": -1.0}),
    "PPO, gSDE, squashed": ("PPO", {**SMALL, "use_sde": True, "squash_output": True}),
    "PPO, gSDE, expln": ("PPO", {**SMALL, "use_sde": True, "use_expln": True, "full_std": False}),
    "A2C": ("A2C", SMALL),
    "TRPO": ("TRPO", SMALL),
    "DDPG": ("DDPG", SMALL),
    "TD3": ("TD3", SMALL),
    "TD3, tanh": ("TD3", {**SMALL, "activation_fn": nn.Tanh}),
    "SAC": ("SAC", SMALL),
    "SAC, apart": ("SAC", {"net_arch": {"pi": [4], "qf": [8, 8]}, "n_critics": 3}),
    "SAC, gSDE": ("SAC", {**SMALL, "use_sde": True}),
    "TQC": ("TQC", {**SMALL, "n_quantiles": 7}),
    "ARS": ("ARS", {"net_arch": [8]}),
    "ARS, linear": ("ARS, linear", {}),
}
"""Every algorithm, and every option that changes what its tensors mean."""


def agent(name, env=None, seed=0):
    """An untrained agent, its last layers made large enough to saturate now and then."""
    algorithm, options = AGENTS[name]
    algorithm, _, linear = algorithm.partition(", ")
    kind = getattr(stable_baselines3, algorithm, None) or getattr(sb3_contrib, algorithm)
    options, settings = dict(options), {}
    if options.pop("use_sde", False):
        settings["use_sde"] = True
    policy = "LinearPolicy" if linear else "MlpPolicy"
    model = kind(policy, env or Lopsided(), policy_kwargs=options, seed=seed, device="cpu", **settings)
    heads = ("action_net.weight", "action_net.2.weight", "action_net.0.weight", "mu.weight", "mu.0.weight")
    for parameter_name, parameter in model.policy.named_parameters():
        if parameter_name.endswith(heads):
            parameter.data.mul_(20)
    return model


def normalised_agent(name="PPO", **options):
    """An agent behind a ``VecNormalize`` that has seen some observations and rewards."""
    env = VecNormalize(DummyVecEnv([Lopsided]), **options)
    env.seed(0)
    env.reset()
    for _ in range(50):
        env.step(np.array([env.action_space.sample()]))
    return agent(name, env), env


def observations(n=20, seed=1):
    return (3 + 2 * np.random.default_rng(seed).standard_normal((n, OBSERVATIONS))).astype(np.float32)


def at_the_bounds(backbone, config):
    """Two learners, their actions made large enough to reach the bounds, their statistics far from (0, 1)."""
    peers = DualStudent(Lopsided, backbone=backbone, config=config).learn(128)
    network = peers.learner.actor_network
    last_weights, _ = network.unpack(peers.learner.actor[:, : network.parameter_count])[-1]
    last_weights.mul_(100.0 if backbone == "ppo" else 5.0)  # PPO's begin a hundred times smaller
    return peers
