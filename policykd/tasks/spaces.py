"""What task a user names, whether learners can work on it, and the scale of its actions."""

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
"""What agents train on: ``find_task`` and ``batched.find_vector`` say what each stands for."""
A = TypeVar("A", np.ndarray, Tensor)


class Vector(NamedTuple):
    """A ``VectorEnv``, or what makes one."""

    make: VectorFactory
    """Of a number of environments."""
    num_envs: int | None
    """How many the one that is there has; None: as many as are asked for."""


class Task(NamedTuple):
    """An environment that can be made again and again."""

    env_id: str
    """Its registered id with its version, ``module:id`` where a module must be imported first."""
    make: EnvFactory
    by_id: bool
    """Whether the id alone says how to make it."""
    vector: Vector | None = None
    """How to make many at once, where the user hands in a ``VectorEnv``."""
    alone: bool = True
    """Whether ``make`` makes one that can be played."""


def find_task(env: str | gym.Env | EnvFactory) -> Task:
    """What a user's ``env`` names; what it makes is held to Gymnasium's interface (``contract.CheckedTask``).

    Args:
        env: a registered id, an instance made from one (``gym.make``), or a function that makes an instance.

    Raises:
        PolicyKDError: the id is not registered, the instance cannot be made again, or it is something else.
    """
    if isinstance(env, str):
        env_id = _registered(env)
        # Gymnasium's passive checker costs time at every step; training checks what it must see itself.
        return Task(env_id, checked(lambda: policykd_envs.make(env_id, disable_env_checker=True), env_id), True)
    if isinstance(env, gym.Env):
        spec = env.spec
        if spec is None or any(wrapper.kwargs is None for wrapper in spec.additional_wrappers):
            raise PolicyKDError(
                f"environment: one {type(env).__name__} cannot be made again for every learner: hand in a function "
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
    """Whether the id alone makes the same: time limit, wrappers and all, but for Gymnasium's checker."""
    registered = gym.registry.get(spec.id)
    return registered is not None and registered == dataclasses.replace(
        spec, disable_env_checker=registered.disable_env_checker
    )


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
        PolicyKDError: it is not text, or whoever reads the file has not imported its module.
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
        except (Exception, SystemExit) as error:  # a module of the user's own may fail in any way
            raise PolicyKDError(f"environment: {env_id} cannot be made: {one_line(error)}") from error
    if name not in gym.registry:
        versions = [known for known in gym.registry if known.rsplit("-v", 1)[0] == name]
        if not versions:
            raise PolicyKDError(f"environment: {name!r} is not registered{nearest(name, gym.registry)}")
        name = max(versions, key=lambda known: int(known.rsplit("-v", 1)[1]))
    return f"{module}:{name}" if module else name


def check_spaces(env: gym.Env) -> tuple[spaces.Box, ActionSpace]:
    """The observation and action space, if learners can work on them.

    Raises:
        PolicyKDError: the actions are neither a bounded box of floats nor a choice of one, the observations no vector,
            or a wrapper keeps a moving scale.
    """
    observation_space, action_space, name = env.observation_space, env.action_space, task_name(env)
    refuse_moving_scales(env, name)
    if not isinstance(action_space, spaces.Box | spaces.Discrete):
        raise PolicyKDError(
            f"environment: {name} has {type(action_space).__name__} actions; policykd trains continuous control (Box) "
            "and the choice of one action (Discrete)"
        )
    if isinstance(action_space, spaces.Box):
        _check_actions(env, action_space, name)
    if not isinstance(observation_space, spaces.Box) or len(observation_space.shape) != 1:
        shape = "" if observation_space.shape is None else f" of shape {observation_space.shape}"
        wrapper = "wrap it in `FlattenObservation(env)`"
        if not observation_space.is_np_flattenable:
            wrapper = "no fixed length is known of these: make a vector of them in an ObservationWrapper of your own"
        raise PolicyKDError(
            f"environment: {name} has observations in a {type(observation_space).__name__}{shape}; numbers in a Box "
            f"that are no image, or a Dict of them, are needed: {wrapper}"
        )
    if not observation_space.shape[0]:
        raise PolicyKDError(f"environment: {name} has observations of no numbers; a policy needs something to see")
    return observation_space, action_space


def _check_actions(env: gym.Env, space: spaces.Box, name: str) -> None:
    """Refuse boxes that are not a bounded vector of floats, each with the wrapper that makes one of it.

    The wrappers are Gymnasium's, as code between backticks: the tests run it.
    """
    if not np.prod(space.shape):
        raise PolicyKDError(f"environment: {name} has actions of no numbers; there is nothing to learn")
    if space.dtype.kind != "f":
        raise PolicyKDError(
            f"environment: {name} has actions of {space.dtype}, and policykd's are continuous: round them in "
            f"`TransformAction(env, lambda action: action.round().astype('{space.dtype}'), "
            "Box(env.action_space.low.astype('float32'), env.action_space.high.astype('float32')))`"
        )
    with np.errstate(over="ignore"):
        bounded = np.isfinite(space.high - space.low).all()
    if not bounded:
        if any(isinstance(layer, gym.wrappers.ClipAction) for layer in layers(env)):
            raise PolicyKDError(
                f"environment: {name} has unbounded actions, as ClipAction makes them: take ClipAction away, since "
                "policykd keeps to the task's bounds itself"
            )
        raise PolicyKDError(
            f"environment: {name} has unbounded actions: say how far they may go, with your own numbers, in "
            f"`TransformAction(env, lambda action: action, Box(-1, 1, {space.shape}))`"
        )
    if len(space.shape) != 1:
        raise PolicyKDError(
            f"environment: {name} has actions of shape {space.shape}; a vector (Box of one axis) is needed: wrap it in "
            f"`TransformAction(env, lambda action: action.reshape({space.shape}), "
            "Box(env.action_space.low.ravel(), env.action_space.high.ravel(), dtype=env.action_space.dtype))`"
        )


def refuse_moving_scales(env: gym.Env | gym.vector.VectorEnv, name: str) -> None:
    """Refuse wrappers with running statistics: each copy has its own, and the policy that is exported has none."""
    for layer in layers(env):
        attributes = vars(layer)
        moves = any(type(value).__name__ == "RunningMeanStd" for value in attributes.values())
        frozen = not attributes.get("_update_running_mean", attributes.get("update_running_mean", True))
        if moves and not frozen:
            setting = "normalize_reward" if "Reward" in type(layer).__name__ else "normalize_observation"
            raise PolicyKDError(
                f"environment: {name} is wrapped in {type(layer).__name__}, and every copy would keep a moving scale "
                f"of its own, which a shared replay mixes: take it away; backbone 'ppo' has {setting}, other backbones "
                "take fixed numbers (RescaleObservation, TransformObservation, TransformReward)"
            )


ActionSpace = spaces.Box | spaces.Discrete
"""Actions that learners can work on."""


def action_scale(space: ActionSpace) -> ActionScale | Choices:
    """How learners' actions become those of the task."""
    return ActionScale(space) if isinstance(space, spaces.Box) else Choices(space)


class Choices:
    """Maps vectors with one number per action to the number of the action that the environment takes.

    Learners hold a choice as a vector of 1 at the action chosen and 0 elsewhere; of any vector the largest counts, so
    a mean of several choices is their vote, and uniform noise chooses uniformly.

    Args:
        space: the actions ``start``, ``start + 1``, ..., A of them.
    """

    bounds = (None, None)
    """Smallest and largest action: a choice has none."""
    shape = ()
    """Of an action of the environment."""

    def __init__(self, space: spaces.Discrete) -> None:
        self.size, self.start = int(space.n), int(space.start)

    def to_env(self, actions: A) -> A:
        """Vectors ``(..., A)`` as numbers of actions ``(...)``, int64."""
        return self.start + actions.argmax(-1)

    clip = to_env

    def one_hot(self, actions: np.ndarray) -> np.ndarray:
        """Numbers of actions ``(...)`` as vectors ``(..., A)``, float32."""
        return np.eye(self.size, dtype=np.float32)[np.asarray(actions, np.int64) - self.start]

    from_env = one_hot


class ActionScale:
    """Maps actions from [-1, 1], where learners live, to the units of the environment.

    It computes in the precision of the space: a float64 bound rounded to float32 could be overstepped.

    Args:
        space: bounded box of floats ``(A,)``; low may equal high where an action cannot move.
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
        """Actions ``(..., A)`` in [-1, 1] in units of the environment."""
        if isinstance(actions, Tensor):
            half, middle = (torch.from_numpy(part).to(actions.device) for part in (self.half_range, self.middle))
            return self.clip(actions * half + middle)
        return self.clip(actions * self.half_range + self.middle)

    def from_env(self, actions: np.ndarray) -> np.ndarray:
        """Actions ``(..., A)`` in units of the environment in [-1, 1]; the only value of one that cannot move is 0."""
        half_range = np.where(self.half_range > 0, self.half_range, 1)
        scaled: np.ndarray = np.clip((actions - self.middle) / half_range, -1, 1)
        return scaled

    def clip(self, actions: A) -> A:
        """Actions ``(..., A)`` in units of the environment, never beyond its bounds."""
        if isinstance(actions, Tensor):
            low, high = (torch.from_numpy(bound).to(actions.device) for bound in (self.low, self.high))
            return actions.to(low.dtype).clamp(low, high)
        bounded = np.minimum(np.maximum(actions, self.low), self.high)  # np.clip takes twice as long on a few numbers
        return bounded.astype(self.low.dtype, copy=False)
