"""The files that rl-baselines3-zoo reads with an agent: ``config.yml`` and ``args.yml``."""

from __future__ import annotations

import json
from typing import Any

import gymnasium as gym
from gymnasium import spaces

from policykd.export.exportable import Exportable
from policykd.learners.config import PPOConfig
from policykd.tasks.spaces import short_id
from policykd.tasks.views import View

WRAPPERS = "policykd_envs.wrappers"
"""Module of the wrappers for students that see part of the observation, or a history."""


def zoo_settings(agent: Exportable, k: int) -> dict[str, str]:
    """The content of each file by name, for learner ``k``.

    The zoo makes the task by its id, with ``env_kwargs``; wrappers of a task passed as a function are unknown here, and
    a comment says so.
    """
    config, view = agent.config, agent.view
    settings: dict[str, Any] = {"n_timesteps": agent.num_timesteps, "policy": policy_of(view.shown)}
    if isinstance(config, PPOConfig) or config.n_envs > 1:
        settings["n_envs"] = config.n_envs
    if isinstance(config, PPOConfig) and (config.normalize_observation or config.normalize_reward):
        scaled = {"norm_obs": config.normalize_observation, "norm_reward": config.normalize_reward}
        settings["normalize"] = str(scaled)  # a dict as text, as the zoo writes it
    if wrappers := wrappers_of(view):
        settings["env_wrapper"] = [{wrapper: given} for wrapper, given in wrappers.items()]
    arguments = {
        "algo": agent.backbone,
        "env": short_id(agent.env_id),
        "env_kwargs": None if agent.made_by_id else _env_kwargs(agent),
        "gym_packages": [agent.env_id.rpartition(":")[0]] if ":" in agent.env_id else [],
        "n_timesteps": agent.num_timesteps,
        "seed": agent.learners[k][0],
    }
    note = env_differences(agent)
    return {"config.yml": note + _lines(settings), "args.yml": note + _lines(arguments)}


def policy_of(space: spaces.Space | None) -> str:
    """Name of the SB3 policy for such observations."""
    return "MultiInputPolicy" if isinstance(space, spaces.Dict) else "MlpPolicy"


def wrappers_of(view: View) -> dict[str, dict[str, Any]]:
    """The wrappers, innermost first, and their arguments, that give a task a policy's view."""
    wrappers: dict[str, dict[str, Any]] = {}
    if view.space is not None and view.shown is None:
        wrappers["gymnasium.wrappers.FlattenObservation"] = {}
    if view.columns is not None:
        wrappers[f"{WRAPPERS}.SelectObservation"] = {"columns": list(view.columns)}
    if view.history > 1:
        wrappers[f"{WRAPPERS}.StackObservation"] = {"n": view.history}
    return wrappers


def env_differences(agent: Exportable) -> str:
    """Comments on how the agent's task differs from its id and wrappers; empty if it does not."""
    note = "" if agent.made_by_id else "# made by a function or from an instance: its own wrappers are not told here\n"
    if agent.view.function is not None:
        note += "# sees its observations by a function, which is not told here\n"
    return note


def _env_kwargs(agent: Exportable) -> dict[str, Any] | None:
    """Keyword arguments of an instance in addition to its registered id, as far as YAML can hold them."""
    env = agent.factory()
    env.close()
    spec = env.spec
    if spec is None or spec.id not in gym.registry:
        return None
    known = gym.spec(spec.id).kwargs
    return {name: value for name, value in spec.kwargs.items() if known.get(name) != value and _plain(value)} or None


def _plain(value: Any) -> bool:
    try:
        json.dumps(value)
    except (TypeError, ValueError):
        return False
    return True


def _lines(values: dict[str, Any]) -> str:
    return "".join(f"{name}: {_yaml(value)}\n" for name, value in values.items())


def _yaml(value: Any) -> str:
    """A plain value in YAML's flow style, which is JSON except for floats: 1e-05 would be a string."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(name)}: {_yaml(item)}" for name, item in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_yaml, value)) + "]"
    text = json.dumps(value)
    return text.replace("e", ".0e") if isinstance(value, float) and "e" in text and "." not in text else text
