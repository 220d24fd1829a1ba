"""What task a user names, whether learners can work on it, and the scale of its actions."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from typing import NamedTuple

import gymnasium as gym
import numpy as np
import policykd_envs
from gymnasium import spaces

from policykd.core.errors import PolicyKDError, nearest

EnvFactory = Callable[[], gym.Env]


class Task(NamedTuple):
    """An environment that can be made again and again."""

    env_id: str
    """Its registered id with its version, ``module:id`` where a module must be imported first."""
    make: EnvFactory
    by_id: bool
    """Whether the id alone says how to make it."""


def find_task(env: str | gym.Env | EnvFactory) -> Task:
    """What a user's ``env`` names.

    Args:
        env: a registered id, an instance made from one (``gym.make``), or a function that makes an instance.

    Raises:
        PolicyKDError: the id is not registered, or the instance cannot be made again.
    """
    if isinstance(env, str):
        env_id = _registered(env)
        # Gymnasium's passive checker costs time at every step; training checks what it must see itself.
        return Task(env_id, lambda: policykd_envs.make(env_id, disable_env_checker=True), True)
    if isinstance(env, gym.Env):
        spec = env.spec
        if spec is None:
            raise PolicyKDError("environment: one instance cannot serve several learners: give its id or a function")
        return Task(spec.id, lambda: policykd_envs.make(spec), spec.kwargs == gym.spec(spec.id).kwargs)
    made = env()
    made.close()
    return Task(made.spec.id if made.spec is not None else type(made.unwrapped).__name__, env, False)


def short_id(env_id: str) -> str:
    """A task's id without the module that registers it."""
    return env_id.split(":")[-1]


def foreign_module(env_id: str) -> str:
    """The module that a task needs and that nobody has imported yet; empty where there is none."""
    module = env_id.rpartition(":")[0]
    return "" if module in sys.modules else module


def check_named(env_id: object, where: object) -> None:
    """Refuse a task that a file names, where making it would import a module: a file must not choose what is run.

    Args:
        env_id: what the file says.
        where: the file.

    Raises:
        PolicyKDError: it is no text, or its module has not been imported by who reads the file.
    """
    if not isinstance(env_id, str):
        raise PolicyKDError(f"environment: {where} names no task, but {str(env_id)[:80]!r}")
    if foreign_module(env_id):
        raise PolicyKDError(
            f"environment: {where} names {env_id[:200]!r}, and making it would run that module: if you know it, name "
            "it yourself with --env (env=)"
        )


def _registered(env_id: str) -> str:
    """The id with its version, its module imported."""
    module, colon, name = env_id.rpartition(":")
    if colon:
        if not all(part.isidentifier() for part in module.split(".")):
            raise PolicyKDError(f"environment: {env_id!r} names no module before its colon: write module:id")
        try:
            importlib.import_module(module)
        except Exception as error:  # the module's own
            reason = f"{type(error).__name__}: {error}".partition("\n")[0]
            raise PolicyKDError(f"environment: {env_id} cannot be made: {reason}") from error
    if name not in gym.registry:
        versions = [known for known in gym.registry if known.rsplit("-v", 1)[0] == name]
        if not versions:
            raise PolicyKDError(f"environment: {name!r} is not registered{nearest(name, gym.registry)}")
        name = max(versions, key=lambda known: int(known.rsplit("-v", 1)[1]))
    return f"{module}:{name}" if module else name


def check_spaces(env: gym.Env) -> tuple[spaces.Box, spaces.Box]:
    """The observation and action space, if learners can work on them.

    Raises:
        PolicyKDError: the actions are not a bounded box, or the observations no vector.
    """
    observation_space, action_space = env.observation_space, env.action_space
    name = env.spec.id if env.spec is not None else type(env.unwrapped).__name__
    if not isinstance(action_space, spaces.Box):
        raise PolicyKDError(
            f"environment: {name} has {type(action_space).__name__} actions; policykd trains continuous control (Box)"
        )
    if not (np.isfinite(action_space.low).all() and np.isfinite(action_space.high).all() and action_space.shape):
        raise PolicyKDError(f"environment: {name} has unbounded actions; wrap it in RescaleAction or ClipAction")
    if not isinstance(observation_space, spaces.Box) or len(observation_space.shape) != 1:
        raise PolicyKDError(
            f"environment: {name} has observations {observation_space}; a vector (Box of one axis) is needed: wrap it "
            "in FlattenObservation"
        )
    return observation_space, action_space


class ActionScale:
    """Maps actions from [-1, 1], where learners live, to the units of the environment."""

    def __init__(self, space: spaces.Box) -> None:
        self.low = space.low.astype(np.float32)
        self.high = space.high.astype(np.float32)
        self.middle = (self.high + self.low) / 2
        self.half_range = (self.high - self.low) / 2

    def to_env(self, actions: np.ndarray) -> np.ndarray:
        """Actions ``(..., A)`` in [-1, 1] in units of the environment, never beyond its bounds."""
        return np.clip(actions * self.half_range + self.middle, self.low, self.high)
