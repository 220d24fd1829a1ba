"""What any learner has to beat: random actions."""

from __future__ import annotations

import numpy as np
import policykd_envs


def random_returns(env_id: str, n_episodes: int, seed: int) -> np.ndarray:
    """Undiscounted returns ``(n_episodes,)`` of actions drawn uniformly from the action space.

    Args:
        env_id: a registered environment.
        n_episodes: episodes to play, each to its end.
        seed: seed of the environment and of the actions.
    """
    returns = np.zeros(n_episodes)
    with policykd_envs.make(env_id) as env:
        env.action_space.seed(seed)
        for episode in range(n_episodes):
            env.reset(seed=seed if episode == 0 else None)
            done = False
            while not done:
                _, reward, terminated, truncated, _ = env.step(env.action_space.sample())
                returns[episode] += float(reward)
                done = terminated or truncated
    return returns
