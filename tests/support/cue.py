"""A task that needs memory."""

import gymnasium as gym
import numpy as np


class Cue(gym.Env):
    """What to do is told at the first step alone; the whole observation tells it at every step."""

    observation_space = gym.spaces.Box(-1, 1, (2,), np.float32)
    action_space = gym.spaces.Box(-1, 1, (1,), np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.goal, self.steps = float(self.np_random.choice([-0.8, 0.8])), 0
        return np.array([self.goal, self.goal], np.float32), {}

    def step(self, action):
        self.steps += 1
        return np.array([0, self.goal], np.float32), -abs(float(action[0]) - self.goal), False, self.steps >= 12, {}
