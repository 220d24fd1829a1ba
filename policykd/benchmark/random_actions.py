"""Returns of random actions, the baseline of normalised scores."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import policykd_envs

from policykd.tasks.evaluate import episode_limit, too_long
from policykd.tasks.spaces import short_id


def random_returns(env_id: str, n_episodes: int, seed: int) -> np.ndarray:
    """Play random actions, drawn uniformly from the action space; returns undiscounted returns ``(n_episodes,)``.

    Args:
        env_id: a registered environment.
        n_episodes: number of episodes, each up to its end, or to ``EPISODE_LIMIT`` steps without a time limit.
        seed: seed of the environment and of the actions.
    """
    returns = np.zeros(n_episodes)
    with policykd_envs.make(env_id) as env:
        env.action_space.seed(seed)
        limit = episode_limit(env)
        for episode in range(n_episodes):
            env.reset(seed=seed if episode == 0 else None)
            done, steps = False, 0
            while not done:
                _, reward, terminated, truncated, _ = env.step(env.action_space.sample())
                returns[episode] += float(reward)
                steps += 1
                done = terminated or truncated or too_long(env_id, steps, limit)
    return returns


def measured_reference(env_id: str, n_episodes: int, seed: int) -> dict[str, Any]:
    """Measure a spec's reference returns: random actions count as 0, the task's reward threshold as 1.

    Without a threshold above random actions, 1 is their return plus one. Arguments are those of ``random_returns``.
    """
    low = float(random_returns(env_id, n_episodes, seed).mean())
    threshold = gym.spec(short_id(env_id)).reward_threshold
    if threshold is not None and threshold > low:
        return {"low": low, "high": threshold, "source": "random actions; the task's reward threshold"}
    return {"low": low, "high": low + 1, "source": "random actions; one more: scores are returns above random actions"}
