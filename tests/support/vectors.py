"""Batched simulators as users write them: a pendulum whose time limit is a truncation, in NumPy and in torch."""

import gymnasium as gym
import numpy as np
import torch
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space


class Pendulums(VectorEnv):
    """``num_envs`` pendulums; one that swings too fast has ended, after ``limit`` steps time is up."""

    def __init__(self, num_envs, mode=AutoresetMode.SAME_STEP, tensors=False, limit=12):
        self.num_envs, self.limit, self.tensors = num_envs, limit, tensors
        self.metadata = {"autoreset_mode": mode}
        self.single_observation_space = gym.spaces.Box(-np.inf, np.inf, (3,), np.float32)
        self.single_action_space = gym.spaces.Box(-2.0, 2.0, (1,), np.float32)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self.state, self.steps = np.zeros((num_envs, 2)), np.zeros(num_envs, int)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        mask = np.asarray((options or {}).get("reset_mask", np.ones(self.num_envs, bool)))
        self._begin(mask)
        return self._out(self._seen()), {}

    def step(self, actions):
        assert isinstance(actions, torch.Tensor) == self.tensors
        torque = np.asarray(actions)[:, 0]
        assert np.abs(torque).max() <= 2.0
        angle, speed = self.state.T
        rewards = -(angle**2) - 0.1 * speed**2
        speed = speed + 0.05 * (15 * np.sin(angle) + 3 * torque)
        self.state = np.stack((angle + 0.05 * speed, speed), 1)
        self.steps += 1
        terminated, truncated = np.abs(speed) > 4.0, self.steps >= self.limit
        infos, done = {}, terminated | truncated
        if done.any() and self.metadata["autoreset_mode"] == AutoresetMode.SAME_STEP:
            infos = {"final_obs": self._out(self._seen()), "_final_obs": done}
            self._begin(done)
        return *map(self._out, (self._seen(), rewards, terminated, truncated)), infos

    def _begin(self, mask):
        drawn = self.np_random.uniform(-0.5, 0.5, (self.num_envs, 2))
        self.state = np.where(mask[:, None], drawn, self.state)
        self.steps = np.where(mask, 0, self.steps)

    def _seen(self):
        return np.stack((np.cos(self.state[:, 0]), np.sin(self.state[:, 0]), self.state[:, 1]), 1).astype(np.float32)

    def _out(self, array):
        return torch.from_numpy(np.array(array)) if self.tensors else array


def pendulums(num_envs):
    """A function of ``num_envs``, as users hand it in."""
    return Pendulums(num_envs)


class Points(VectorEnv):
    """Points to be pushed to the origin, in torch on one device: actions and observations are tensors there."""

    def __init__(self, num_envs, device="cpu", limit=20):
        self.num_envs, self.limit, self.device = num_envs, limit, torch.device(device)
        self.metadata = {"autoreset_mode": AutoresetMode.DISABLED}
        self.single_observation_space = gym.spaces.Box(-np.inf, np.inf, (3,), np.float32)
        self.single_action_space = gym.spaces.Box(-2.0, 2.0, (1,), np.float32)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self.state = torch.zeros(num_envs, 3, device=device)
        self.steps = torch.zeros(num_envs, dtype=torch.int64, device=device)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        drawn = torch.from_numpy(self.np_random.uniform(-1, 1, (self.num_envs, 3))).float().to(self.device)
        mask = (options or {}).get("reset_mask", torch.ones(self.num_envs, dtype=torch.bool, device=self.device))
        assert mask.device.type == self.device.type
        self.state = torch.where(mask[:, None], drawn, self.state)
        self.steps = torch.where(mask, 0, self.steps)
        return self.state, {}

    def step(self, actions):
        assert actions.device.type == self.device.type
        self.state = self.state * 0.99 + 0.1 * torch.nn.functional.pad(actions, (2, 0))
        self.steps = self.steps + 1
        distance = self.state.norm(dim=1)
        return self.state, -distance, distance > 2.5, self.steps >= self.limit, {}
