"""Tasks that go wrong on purpose: ``Raises-v0`` raises in training, ``Slow-v0`` takes its time."""

import time

import gymnasium as gym
from policykd_envs import PointReach


class Raises(PointReach):
    """Raises in its third episode."""

    def __init__(self):
        super().__init__()
        self.episodes = 0

    def reset(self, **options):
        self.episodes += 1
        if self.episodes > 2:
            raise RuntimeError("the simulator fell over")
        return super().reset(**options)


class Slow(PointReach):
    """Waits a little at every step, so that there is time to kill it."""

    def step(self, action):
        time.sleep(0.002)
        return super().step(action)


gym.register("Raises-v0", entry_point=Raises, max_episode_steps=50)
gym.register("Slow-v0", entry_point=Slow, max_episode_steps=50)
