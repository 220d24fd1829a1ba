"""What any learner has to beat: random actions."""

from __future__ import annotations

import numpy as np
import policykd_envs

from policykd.tasks.evaluate import step_limit


def random_returns(env_id: str, n_episodes: int, seed: int) -> np.ndarray:
    """Undiscounted returns ``(n_episodes,)`` of actions drawn uniformly from the action space.

    Args:
        env_id: a registered environment.
        n_episodes: episodes to play, each to its end, or as far as an evaluation counts it.
        seed: seed of the environment and of the actions.
    """
    env = policykd_envs.make(env_id)
    env.action_space.seed(seed)
    returns, limit = np.zeros(n_episodes), step_limit(env)
    try:
        for episode in range(n_episodes):
            env.reset(seed=seed if episode == 0 else None)
            done, steps = False, 0
            while not done and steps != limit:
                _, reward, terminated, truncated, _ = env.step(env.action_space.sample())
                returns[episode] += float(reward)
                done, steps = terminated or truncated, steps + 1
    finally:
        env.close()
    return returns
