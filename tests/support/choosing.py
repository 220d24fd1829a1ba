"""A task of choices, and small agents of SB3 that choose."""

import gymnasium as gym
import numpy as np
import sb3_contrib
import stable_baselines3

OBSERVATIONS, ACTIONS, LENGTH = 4, 3, 12
KINDS = ("PPO", "A2C", "DQN", "QRDQN", "TRPO", "ARS")


class Largest(gym.Env):
    """The reward is 1 where the action names the largest of the first three observations; episodes of 12 steps."""

    observation_space = gym.spaces.Box(-np.inf, np.inf, (OBSERVATIONS,), np.float32)
    action_space = gym.spaces.Discrete(ACTIONS)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.steps = 0
        return self._observe(), {}

    def step(self, action):
        assert self.action_space.contains(action)
        reward = float(action - self.action_space.start == self.seen[:ACTIONS].argmax())
        self.steps += 1
        return self._observe(), reward, False, self.steps >= LENGTH, {}

    def _observe(self):
        self.seen = self.np_random.standard_normal(OBSERVATIONS).astype(np.float32)
        return self.seen.copy()


class FromTwo(Largest):
    """The same whose actions are 2, 3 and 4."""

    action_space = gym.spaces.Discrete(ACTIONS, start=2)


def expert(observation):
    """The best action as a user's function gives it."""
    return int(np.argmax(observation[:ACTIONS]))


def agent(kind, seed=0):
    """An untrained agent, its last layer made large enough to be sure of something."""
    make = getattr(stable_baselines3, kind, None) or getattr(sb3_contrib, kind)
    kwargs = {"net_arch": [8, 6]} | ({"n_quantiles": 5} if kind == "QRDQN" else {})
    model = make("MlpPolicy", Largest(), policy_kwargs=kwargs, seed=seed, device="cpu")
    for name, parameter in model.policy.named_parameters():
        if name.endswith(("action_net.weight", "net.4.weight")):
            parameter.data.mul_(20)
    return model


def observations(count=40, seed=1):
    """Observations ``(count, O)``."""
    return np.random.default_rng(seed).standard_normal((count, OBSERVATIONS)).astype(np.float32)
