"""Plays a teacher on its task, and records states, actions and how episodes end."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import gymnasium as gym
import numpy as np

from policykd.core.seeding import env_seed
from policykd.tasks.contract import task_name
from policykd.tasks.evaluate import refuse_unless_finite
from policykd.tasks.spaces import EnvFactory, action_scale, check_spaces

LONGEST = 10_000
"""Steps after which an episode is cut off: a task without a time limit may never end."""

Act = Callable[[np.ndarray], np.ndarray]
"""Maps one raw observation ``(O,)`` to an action ``(A,)`` in [-1, 1], or one-hot if discrete."""


@dataclass(frozen=True)
class Play:
    """Episodes of one policy."""

    observations: np.ndarray
    """Raw ``(n, O)``, float32, in the order of the steps."""
    actions: np.ndarray
    """``(n, A)`` in [-1, 1]."""
    episodes: np.ndarray
    """Index of each state's episode ``(n,)``."""
    returns: np.ndarray
    """Undiscounted return of each episode ``(E,)``."""
    terminated: np.ndarray
    """Whether each episode terminated ``(E,)``."""
    truncated: np.ndarray
    """Whether it was truncated ``(E,)``; if neither, it was cut off after ``LONGEST`` steps."""
    limit: int | None
    """The task's registered time limit."""

    @property
    def lengths(self) -> np.ndarray:
        """Steps of each episode ``(E,)``."""
        return np.bincount(self.episodes, minlength=len(self.returns))


def play(make: EnvFactory, act: Act, n_episodes: int, seed: int, longest: int = LONGEST) -> Play:
    """Play ``n_episodes`` without noise; their initial states depend only on ``seed``.

    Raises:
        TaskError: the task raised or violated the interface, or returned values that are not finite.
    """
    observations, actions, episodes, ends = [], [], [], []
    with make() as env:
        scale, name = action_scale(check_spaces(env)[1]), task_name(env)
        for episode in range(n_episodes):
            observation = np.asarray(env.reset(seed=env_seed(seed, episode, "evaluation"))[0], np.float32)
            refuse_unless_finite(name, "reset", observation)
            total, terminated, truncated, steps = 0.0, False, False, 0
            while not (terminated or truncated) and steps < longest:
                observations.append(observation)
                actions.append(act(observation))
                seen, reward, terminated, truncated, _ = env.step(scale.to_env(actions[-1]))
                observation, reward = np.asarray(seen, np.float32), float(reward)
                total, steps = total + reward, steps + 1
                refuse_unless_finite(name, f"step {steps} of an episode", observation, reward)
            episodes += [episode] * steps
            ends.append((total, terminated, truncated))
    returns, terminations, truncations = zip(*ends, strict=True)
    return Play(
        np.stack(observations),
        np.stack(actions).astype(np.float32),
        np.array(episodes),
        np.array(returns),
        np.array(terminations, bool),
        np.array(truncations, bool),
        _limit(env),
    )


def _limit(env: gym.Env) -> int | None:
    return None if env.spec is None else env.spec.max_episode_steps
