"""Finds the task that a user names, checks its spaces, and scales its actions."""

from __future__ import annotations

import dataclasses
import importlib
import sys
from collections.abc import Callable
from typing import NamedTuple, TypeVar

import gymnasium as gym
import numpy as np
import policykd_envs
import torch
from gymnasium import spaces
from gymnasium.envs.registration import EnvSpec
from torch import Tensor

from policykd.core.errors import PolicyKDError, nearest, one_line
from policykd.tasks.contract import checked, layers, not_a_task, task_name

EnvFactory = Callable[[], gym.Env]
VectorFactory = Callable[[int], gym.vector.VectorEnv]
AnyEnv = str | gym.Env | gym.vector.VectorEnv | EnvFactory | VectorFactory
"""What agents can train on; see ``find_task`` and ``batched.find_vector``."""
A = TypeVar("A", np.ndarray, Tensor)


class Vector(NamedTuple):
    """A user's ``VectorEnv``, or function that makes one."""

    make: VectorFactory
    """Makes a vector with this number of environments."""
    num_envs: int | None
    """Number of environments of an existing vector; None if any number can be made."""


class Task(NamedTuple):
    """An environment that can be made repeatedly."""

    env_id: str
    """Its registered id with version, or ``module:id`` if a module must be imported first."""
    make: EnvFactory
    by_id: bool
    """Whether the id alone suffices to make it."""
    vector: Vector | None = None
    """How to make many at once, if the user passed a ``VectorEnv``."""
    playable: bool = True
    """Whether the environment of ``make`` can be played."""


def find_task(env: str | gym.Env | EnvFactory) -> Task:
    """The task of a user's ``env``; its environments are checked against Gymnasium's interface (``CheckedTask``).

    Args:
        env: a registered id, an instance made from one (``gym.make``), or a function that makes an instance.

    Raises:
        PolicyKDError: the id is not registered, the instance cannot be made again, or ``env`` is of another type.
    """
    if isinstance(env, str):
        env_id = _registered(env)
        # Gymnasium's passive checker costs time at every step; ``checked`` covers what training relies on.
        return Task(env_id, checked(lambda: policykd_envs.make(env_id, disable_env_checker=True), env_id), True)
    if isinstance(env, gym.Env):
        spec = env.spec
        if spec is None or any(wrapper.kwargs is None for wrapper in spec.additional_wrappers):
            raise PolicyKDError(
                f"environment: one {type(env).__name__} cannot be copied for every learner: pass a function "
                "that makes it, or a registered id"
            )
        make = checked(lambda: policykd_envs.make(spec, disable_env_checker=True), spec.id)
        return Task(spec.id, make, _as_registered(spec))
    if not callable(env):
        raise PolicyKDError(f"environment: got {not_a_task(env)}")
    make = checked(env, f"the function {getattr(env, '__name__', type(env).__name__)}")
    made = make()
    made.close()
    return Task(task_name(made), make, False)


def _as_registered(spec: EnvSpec) -> bool:
    """Whether the id alone makes the same environment, with time limit and wrappers, except Gymnasium's checker."""
    registered = gym.registry.get(spec.id)
    return registered is not None and registered == dataclasses.replace(
        spec, disable_env_checker=registered.disable_env_checker
    )


def short_id(env_id: str) -> str:
    """A task's id without the module that registers it."""
    return env_id.split(":")[-1]


def foreign_module(env_id: str) -> str:
    """The module that a task needs and that is not imported yet; empty if there is none."""
    module = env_id.rpartition(":")[0]
    return "" if module in sys.modules else module


def check_named(env_id: object, where: object) -> None:
    """Refuse a task named in a file if making it would import a module: a file must not choose which code runs.

    Args:
        env_id: the id in the file.
        where: the file, for the error.

    Raises:
        PolicyKDError: it is not a string, or its module has not been imported yet.
    """
    if not isinstance(env_id, str):
        raise PolicyKDError(f"environment: {where} should name a task, but has {str(env_id)[:80]!r}")
    if foreign_module(env_id):
        raise PolicyKDError(
            f"environment: {where} names {env_id[:200]!r}, and making it would run that module: if you trust it, "
            "name it with --env (env=)"
        )


def _registered(env_id: str) -> str:
    """Import the id's module, and return the id with its version."""
    module, colon, name = env_id.rpartition(":")
    if colon:
        if not all(part.isidentifier() for part in module.split(".")):
            raise PolicyKDError(f"environment: {env_id!r} names no module before its colon: write module:id")
        try:
            importlib.import_module(module)
        except (Exception, SystemExit) as error:  # a user's module may fail in any way
            raise PolicyKDError(f"environment: {env_id} cannot be made: {one_line(error)}") from error
    if name not in gym.registry:
        versions = [known for known in gym.registry if known.rsplit("-v", 1)[0] == name]
        if not versions:
            raise PolicyKDError(f"environment: {name!r} is not registered{nearest(name, gym.registry)}")
        name = max(versions, key=lambda known: int(known.rsplit("-v", 1)[1]))
    return f"{module}:{name}" if module else name


def check_spaces(env: gym.Env) -> tuple[spaces.Box, ActionSpace]:
    """The observation and action space, if they are supported.

    Raises:
        PolicyKDError: actions are neither a bounded box of floats nor Discrete, observations are not a vector, or a
            wrapper keeps running statistics.
    """
    observation_space, action_space, name = env.observation_space, env.action_space, task_name(env)
    refuse_moving_scales(env, name)
    if not isinstance(action_space, spaces.Box | spaces.Discrete):
        raise PolicyKDError(
            f"environment: {name} has {type(action_space).__name__} actions; policykd takes continuous (Box) or "
            "discrete ones (Discrete)"
        )
    if isinstance(action_space, spaces.Box):
        _check_actions(env, action_space, name)
    if not isinstance(observation_space, spaces.Box) or len(observation_space.shape) != 1:
        shape = "" if observation_space.shape is None else f" of shape {observation_space.shape}"
        wrapper = "wrap it in `FlattenObservation(env)`"
        if not observation_space.is_np_flattenable:
            wrapper = "they have no fixed length: turn them into a vector in an ObservationWrapper"
        raise PolicyKDError(
            f"environment: {name} has observations in a {type(observation_space).__name__}{shape}; policykd needs "
            f"a Box of numbers (no images), or a Dict of them: {wrapper}"
        )
    if not observation_space.shape[0]:
        raise PolicyKDError(f"environment: {name} has empty observations")
    return observation_space, action_space


def _check_actions(env: gym.Env, space: spaces.Box, name: str) -> None:
    """Refuse boxes that are not a bounded vector of floats, and name the wrapper that makes them one.

    The wrappers are Gymnasium's, as code in backticks, which the tests run.
    """
    if not np.prod(space.shape):
        raise PolicyKDError(f"environment: {name} has empty actions; there is nothing to learn")
    if space.dtype.kind != "f":
        raise PolicyKDError(
            f"environment: {name} has actions of {space.dtype}, but policykd's are continuous: round them in "
            f"`TransformAction(env, lambda action: action.round().astype('{space.dtype}'), "
            "Box(env.action_space.low.astype('float32'), env.action_space.high.astype('float32')))`"
        )
    with np.errstate(over="ignore"):
        bounded = np.isfinite(space.high - space.low).all()
    if not bounded:
        if any(isinstance(layer, gym.wrappers.ClipAction) for layer in layers(env)):
            raise PolicyKDError(
                f"environment: {name} has unbounded actions, as ClipAction makes them: remove ClipAction; "
                "policykd clips actions itself"
            )
        raise PolicyKDError(
            f"environment: {name} has unbounded actions: set bounds, with your own numbers, in "
            f"`TransformAction(env, lambda action: action, Box(-1, 1, {space.shape}))`"
        )
    if len(space.shape) != 1:
        raise PolicyKDError(
            f"environment: {name} has actions of shape {space.shape}; policykd needs a vector (1-D Box): wrap it in "
            f"`TransformAction(env, lambda action: action.reshape({space.shape}), "
            "Box(env.action_space.low.ravel(), env.action_space.high.ravel(), dtype=env.action_space.dtype))`"
        )


def refuse_moving_scales(env: gym.Env | gym.vector.VectorEnv, name: str) -> None:
    """Refuse wrappers with running statistics: each copy has its own, and an exported policy has none."""
    for layer in layers(env):
        attributes = vars(layer)
        moves = any(type(value).__name__ == "RunningMeanStd" for value in attributes.values())
        frozen = not attributes.get("_update_running_mean", attributes.get("update_running_mean", True))
        if moves and not frozen:
            setting = "normalize_reward" if "Reward" in type(layer).__name__ else "normalize_observation"
            raise PolicyKDError(
                f"environment: {name} is wrapped in {type(layer).__name__}, and every copy would keep its own running "
                f"statistics, which a shared replay mixes: remove it; backbone 'ppo' has {setting}, other backbones "
                "need fixed scales (RescaleObservation, TransformObservation, TransformReward)"
            )


ActionSpace = spaces.Box | spaces.Discrete
"""Supported action spaces."""


def action_scale(space: ActionSpace) -> ActionScale | DiscreteActions:
    """The conversion of learners' actions to the task's."""
    return ActionScale(space) if isinstance(space, spaces.Box) else DiscreteActions(space)


class DiscreteActions:
    """Converts one-hot vectors to the environment's discrete actions.

    Learners hold discrete actions as one-hot vectors. For any vector the largest entry counts, so that the mean of
    several actions is a majority vote, and uniform noise is a uniform choice.

    Args:
        space: the actions ``start``, ``start + 1``, ..., A of them.
    """

    bounds = (None, None)
    """Smallest and largest action: none for discrete actions."""
    shape = ()
    """Shape of an action of the environment."""

    def __init__(self, space: spaces.Discrete) -> None:
        self.size, self.start = int(space.n), int(space.start)

    def to_env(self, actions: A) -> A:
        """Vectors ``(..., A)`` to discrete actions ``(...)``, int64."""
        return self.start + actions.argmax(-1)

    clip = to_env

    def one_hot(self, actions: np.ndarray) -> np.ndarray:
        """Discrete actions ``(...)`` to one-hot vectors ``(..., A)``, float32."""
        return np.eye(self.size, dtype=np.float32)[np.asarray(actions, np.int64) - self.start]

    from_env = one_hot


class ActionScale:
    """Scales the learners' actions in [-1, 1] to the units of the environment.

    Computes in the precision of the space: a float64 bound rounded to float32 could be exceeded.

    Args:
        space: bounded box of floats ``(A,)``; low may equal high for a constant action.
    """

    def __init__(self, space: spaces.Box) -> None:
        self.shape, self.size, self.low, self.high = space.shape, space.shape[0], space.low, space.high
        self.middle = (self.high + self.low) / 2
        self.half_range = (self.high - self.low) / 2

    @property
    def bounds(self) -> tuple[np.ndarray, np.ndarray]:
        """Smallest and largest action ``(A,)``, float32."""
        return self.low.astype(np.float32), self.high.astype(np.float32)

    def to_env(self, actions: A) -> A:
        """Scale actions ``(..., A)`` from [-1, 1] to units of the environment."""
        if isinstance(actions, Tensor):
            half, middle = (torch.from_numpy(part).to(actions.device) for part in (self.half_range, self.middle))
            return self.clip(actions * half + middle)
        return self.clip(actions * self.half_range + self.middle)

    def from_env(self, actions: np.ndarray) -> np.ndarray:
        """Scale actions ``(..., A)`` from units of the environment to [-1, 1]; constant actions are 0."""
        half_range = np.where(self.half_range > 0, self.half_range, 1)
        scaled: np.ndarray = np.clip((actions - self.middle) / half_range, -1, 1)
        return scaled

    def clip(self, actions: A) -> A:
        """Clip actions ``(..., A)`` in units of the environment to its bounds."""
        if isinstance(actions, Tensor):
            low, high = (torch.from_numpy(bound).to(actions.device) for bound in (self.low, self.high))
            return actions.to(low.dtype).clamp(low, high)
        bounded = np.minimum(np.maximum(actions, self.low), self.high)  # np.clip takes twice as long on small arrays
        return bounded.astype(self.low.dtype, copy=False)
