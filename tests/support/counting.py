"""A task whose observations say which environment, episode and step they are, so that what is kept can be recounted."""

import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space


def length(name, episode):
    """Steps of an episode, from 1 to 6."""
    return 1 + (int(name) * 7 + episode * 5) % 6


def ending(name, episode):
    """Whether it is terminated, truncated, or both."""
    return [(True, False), (False, True), (True, True)][(int(name) + episode) % 3]


def reward(name, episode, step):
    """Exact in float32."""
    return int(name) % 13 + 0.25 * episode - 0.5 * step


class Counting(gym.Env):
    """Observations (name, episode, step); odd episodes alone say ``is_success``."""

    observation_space = gym.spaces.Box(0, 1e7, (3,), np.float32)
    action_space = gym.spaces.Box(-2, 3, (2,), np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        if seed is not None:
            self.name, self.episode = int(self.np_random.integers(2**20)), -1
        self.episode, self.steps = self.episode + 1, 0
        return self.seen(), {}

    def step(self, action):
        assert self.action_space.contains(action)
        paid = reward(self.name, self.episode, self.steps)
        self.steps += 1
        done = self.steps == length(self.name, self.episode)
        ended = ending(self.name, self.episode) if done else (False, False)
        return self.seen(), paid, *ended, {"is_success": True} if done and self.episode % 2 else {}

    def seen(self):
        return np.array([self.name, self.episode, self.steps], np.float32)


class Countings(VectorEnv):
    """As many of them as a batched simulator; ``told`` may change what ``step`` returns."""

    def __init__(self, num_envs, mode=AutoresetMode.SAME_STEP, told=lambda *step: step):
        self.num_envs, self.metadata, self.told = num_envs, {"autoreset_mode": mode}, told
        self.copies = [Counting() for _ in range(num_envs)]
        self.single_observation_space, self.single_action_space = Counting.observation_space, Counting.action_space
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)

    def reset(self, *, seed=None, options=None):
        for e, copy in enumerate(self.copies):
            if options is None or options["reset_mask"][e]:
                copy.reset(seed=None if seed is None else seed + e)
        return self.seen(), {}

    def step(self, actions):
        steps = [copy.step(action) for copy, action in zip(self.copies, np.asarray(actions), strict=True)]
        rewards, terminated, truncated = (np.array([step[i] for step in steps]) for i in (1, 2, 3))
        infos, done = {}, terminated | truncated
        if done.any() and self.metadata["autoreset_mode"] == AutoresetMode.SAME_STEP:
            infos = {"final_obs": self.seen()}
            for e in np.flatnonzero(done):
                self.copies[e].reset()
        return self.told(self.seen(), rewards, terminated, truncated, infos)

    def seen(self):
        return np.stack([copy.seen() for copy in self.copies])


def recount(names, steps):
    """What must be kept of environments with these names, ``(steps, N, 9)``, and the episodes that ended, in order.

    A row is an observation, the next one, the reward, and whether the episode was terminated or only truncated.
    """
    rows, episodes, now = [], [], [[int(name), 0, 0] for name in names]
    paid = [0.0] * len(now)
    for _ in range(steps):
        for e, (name, episode, step) in enumerate(now):
            done = step + 1 == length(name, episode)
            terminated, truncated = ending(name, episode) if done else (False, False)
            paid[e] += reward(name, episode, step)
            ended = reward(name, episode, step), terminated, truncated and not terminated
            rows.append((name, episode, step, name, episode, step + 1, *ended))
            now[e][1:] = (episode + 1, 0) if done else (episode, step + 1)
            if done:
                episodes.append({"r": paid[e], "l": step + 1} | ({"is_success": 1.0} if episode % 2 else {}))
                paid[e] = 0.0
    return np.array(rows, np.float32).reshape(steps, len(now), 9), episodes
