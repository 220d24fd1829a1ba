"""What follows every step of the environments, on policy or off: episodes that ended, numbers that are none."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from policykd.tasks.contract import TaskError

if TYPE_CHECKING:
    from policykd.training.agent import Agent

Stepped = tuple[np.ndarray, np.ndarray, np.ndarray, list[dict[str, Any]]]
"""Observations ``(E, O)``, rewards ``(E,)``, dones ``(E,)`` and infos of all E environments, as a ``VecEnv`` gives."""


def after_step(agent: Agent, stepped: Stepped) -> tuple[np.ndarray, np.ndarray]:
    """Count the step and the episodes that ended with it.

    Returns:
        The observations ``(E, O)`` that the actions led to, of the same episode still, and where a time limit alone
        ended it, ``(E,)``.

    Raises:
        TaskError: a reward or an observation is not finite.
    """
    new_observations, rewards, dones, infos = stepped
    truncated, next_observations = np.zeros(len(dones), bool), new_observations
    if dones.any():
        next_observations = new_observations.copy()
        for e in np.flatnonzero(dones):
            next_observations[e] = infos[e]["terminal_observation"]
            truncated[e] = infos[e]["TimeLimit.truncated"]
            agent.episodes[e // agent.n_envs].append(infos[e]["episode"])
            agent.n_episodes += 1
    check_finite(agent, rewards, next_observations, new_observations)
    agent.last_observations = new_observations
    agent.num_timesteps += agent.steps_at_once
    return next_observations, truncated


def seen(actions: np.ndarray, stepped: Stepped) -> dict[str, Any]:
    """What SB3's callbacks look at."""
    new_observations, rewards, dones, infos = stepped
    return {"actions": actions, "rewards": rewards, "dones": dones, "infos": infos, "new_obs": new_observations}


def check_finite(agent: Agent, rewards: np.ndarray, *observations: np.ndarray) -> None:
    """Stop before a NaN or infinity is remembered or reaches a policy, and say whose it was; ``failure`` says when."""
    if np.isfinite(rewards).all() and all(np.isfinite(values).all() for values in observations):
        return
    for e, reward in enumerate(rewards):
        if not (np.isfinite(reward) and all(np.isfinite(values[e]).all() for values in observations)):
            what = "a reward" if not np.isfinite(reward) else "an observation"
            error = TaskError(f"environment: {agent.env_id} returned {what} that is not finite")
            error.env = e
            raise error
