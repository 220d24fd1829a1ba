"""Checks a task against Gymnasium's interface at every step; each violation is a one-line error."""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import gymnasium as gym
import numpy as np
from policykd_envs import quiet

from policykd.core.errors import PolicyKDError, one_line, reraise, type_and_text
from policykd.tasks.flat import FlatObservation, needs_flattening

SHIMMY = "for an environment of the old Gym, use shimmy's GymV21CompatibilityV0"


class TaskError(PolicyKDError):
    """A task raised or broke Gymnasium's interface in the middle of a run."""

    env: int | None = None
    """Index of the training environment that raised, if any."""


class CheckedTask(gym.Wrapper):
    """Wraps a user's task and checks it against Gymnasium's interface; stateless.

    Observations and infos are copied (some tasks update an array in place), rewards become floats and flags bools.

    Args:
        env: the task with all its wrappers.
    """

    def __init__(self, env: gym.Env) -> None:
        super().__init__(env)
        self.name = task_name(env)
        self.shape = env.observation_space.shape

    @property
    def spec(self) -> Any:  # type: ignore[override]
        """Spec of the task itself, without this wrapper."""
        return self.env.spec

    def reset(self, **options: Any) -> tuple[np.ndarray, dict[str, Any]]:
        """Start an episode.

        Raises:
            TaskError: the task raised, or did not return an observation and an info.
        """
        try:
            result = self.env.reset(**options)
        except TaskError:  # from a vector wrapped as a single environment
            raise
        except Exception as error:
            takes_none = isinstance(error, TypeError) and "unexpected keyword argument" in str(error)
            advice = "; Gymnasium's is reset(self, *, seed=None, options=None)" if takes_none else ""
            raise TaskError(f"{self._says('reset')} raised {type_and_text(error)}{advice}") from error
        if not isinstance(result, tuple) or len(result) != 2:
            raise TaskError(f"{self._says('reset')} must return (observation, info), not {kind_of(result)}; {SHIMMY}")
        observation, info = result
        return self._observation(observation, "reset"), self._info(info, "reset")

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Take one step.

        Raises:
            TaskError: the task raised, or did not return Gymnasium's five values.
        """
        try:
            result = self.env.step(action)
        except TaskError:
            raise
        except Exception as error:
            raise TaskError(f"{self._says('step')} raised {type_and_text(error)}") from error
        if not isinstance(result, tuple) or len(result) != 5:
            raise TaskError(
                f"{self._says('step')} must return (observation, reward, terminated, truncated, info), not "
                f"{kind_of(result)}; {SHIMMY}"
            )
        observation, reward, terminated, truncated, info = result
        number = reward if isinstance(reward, float) else as_number(reward)  # NumPy's floats are floats
        ended = terminated if type(terminated) is bool else as_number(terminated)
        cut = truncated if type(truncated) is bool else as_number(truncated)
        if number is None or ended not in (0, 1) or cut not in (0, 1):
            raise TaskError(
                f"{self._says('step')} must return one number as reward and one bool each as terminated and truncated, "
                f"not {kind_of(reward)}, {kind_of(terminated)} and {kind_of(truncated)}"
            )
        copied = dict(info) if type(info) is dict else self._info(info, "step")
        return self._observation(observation, "step"), number, bool(ended), bool(cut), copied

    def close(self) -> None:
        """Close the task.

        Raises:
            TaskError: the task raised.
        """
        try:
            self.env.close()
        except Exception as error:
            raise TaskError(f"{self._says('close')} raised {type_and_text(error)}") from error

    def _observation(self, observation: Any, what: str) -> np.ndarray:
        try:
            array = np.array(observation)  # a copy
        except Exception:  # lists of several lengths, tensors with a gradient, objects that fail in any way
            array = np.empty(0, object)
        if array.shape != self.shape or array.dtype.kind not in "fiub":
            raise TaskError(
                f"{self._says(what)} returned {kind_of(observation)} as observation, but its space has numbers of "
                f"shape {self.shape}"
            )
        return array

    def _info(self, info: Any, what: str) -> dict[str, Any]:
        if info is None:
            return {}
        if not isinstance(info, dict):
            raise TaskError(f"{self._says(what)} must return a dict as info, not {kind_of(info)}")
        return dict(info)

    def _says(self, what: str) -> str:
        return f"environment: {self.name}: {what}"


def as_number(value: Any) -> float | None:
    """A number, or an array or tensor of one, as a float; None for anything else, such as text."""
    try:
        number = (value if hasattr(value, "item") else np.asarray(value)).item()
        return None if isinstance(number, str | bytes) else float(number)
    except (TypeError, ValueError, RuntimeError):
        return None


def note_success(episode: dict[str, Any], info: Any, e: int | None = None) -> None:
    """Copy a task's ``is_success`` from ``info`` to the episode's record, if it is a number; ``e`` indexes a vector."""
    try:
        given = e is None or "_is_success" not in info or info["_is_success"][e]  # Gymnasium's mask of valid entries
        number = as_number(info["is_success"] if e is None else info["is_success"][e]) if given else None
    except (KeyError, IndexError, TypeError):
        return
    if number is not None and math.isfinite(number):
        episode["is_success"] = number


def build(factory: Callable[[], Any], name: str) -> Any:
    """Call a user's function that makes a task, without MuJoCo's prints.

    Raises:
        PolicyKDError: it fails.
    """
    with reraise(f"environment: {name} cannot be made: ", text=one_line), quiet():
        return factory()


def checked(factory: Callable[[], Any], name: str) -> Callable[[], gym.Env]:
    """A function that makes a new, checked instance of the task at every call.

    Args:
        factory: a user's function, or one that makes a registered id.
        name: name of the task for errors.
    """
    latest: Callable[[], Any] = lambda: None  # noqa: E731

    def make() -> gym.Env:
        nonlocal latest
        made = build(factory, name)
        if not isinstance(made, gym.Env):
            raise PolicyKDError(f"environment: {name} gives {not_a_task(made)}")
        for space in ("observation_space", "action_space"):
            if not isinstance(getattr(made, space, None), gym.Space):
                inside = made.unwrapped
                own = made if isinstance(getattr(inside, space, None), gym.Space) else inside  # wrappers pass it on
                raise PolicyKDError(
                    f"environment: {name} makes a {type(own).__name__} whose {space} is not a gymnasium.Space: set it "
                    "in its __init__"
                )
        if made is latest():
            raise PolicyKDError(
                f"environment: {name} returns the same instance at every call, but each learner needs its own: make it "
                "inside the function"
            )
        latest = weakref.ref(made)
        return CheckedTask(FlatObservation(made) if needs_flattening(made.observation_space) else made)

    return make


def try_out(env: gym.Env) -> None:
    """Take one step, so that a broken task fails before a run begins.

    Raises:
        TaskError: it raised, or violated Gymnasium's interface.
    """
    env.reset(seed=0)
    env.step(env.action_space.sample())


def not_a_task(value: Any) -> str:
    """What was passed instead of an environment, and what to pass, as the end of an error line."""
    if isinstance(value, gym.vector.VectorEnv) or hasattr(value, "num_envs"):  # Gymnasium's and SB3's vectors
        return (
            f"a {type(value).__name__}, which holds several environments, but one is needed: pass an id, a function "
            "that makes one (lambda: gymnasium.make(...)), or a gymnasium VectorEnv itself"
        )
    return (
        f"{kind_of(value)}, not a gymnasium.Env: pass a registered id, an instance made by gymnasium.make, or "
        f"a function that makes an instance; {SHIMMY}"
    )


def layers(env: Any) -> Iterator[Any]:
    """The environment and all that it wraps, from the outermost wrapper to the task itself."""
    yield env
    while isinstance(env, gym.Wrapper | gym.vector.VectorWrapper):
        env = env.env
        yield env


def task_name(env: gym.Env | gym.vector.VectorEnv) -> str:
    """The task's id, or the name of its class; for a vector of copies that of a copy."""
    base = env.unwrapped
    spec = env.spec or base.spec  # the latter for a vector wrapped as a single environment
    if spec is None and isinstance(base, gym.vector.SyncVectorEnv):
        return task_name(base.envs[0])
    return type(base).__name__ if spec is None else spec.id


def kind_of(value: Any) -> str:
    """Short description of a value's type."""
    if isinstance(value, np.ndarray):
        return f"an array of shape {value.shape}"
    if isinstance(value, tuple | list):
        return f"a {type(value).__name__} of {len(value)}"
    return "None" if value is None else f"a {type(value).__name__}"
