"""A student's view of a task: a part of the observation, and the number of stacked past ones."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium import spaces
from policykd_envs.wrappers import SelectObservation, StackObservation
from torch import Tensor

from policykd.core.errors import PolicyKDError, one_line, reraise
from policykd.core.fields import require
from policykd.core.memory import require_memory
from policykd.tasks.flat import is_combined, own_space
from policykd.tasks.groups import OwnSpace, as_rows, columns_of, groups_of
from policykd.tasks.spaces import EnvFactory, check_spaces

Part = Callable[[Tensor], Tensor]
"""Maps observations of the task ``(B, O)`` to the visible part ``(B, P)``."""
Choice = str | Sequence[int | str] | Part | None
"""A part of the observation: a group's name, names and columns, a function, or None for all of it."""


@dataclass(frozen=True)
class View:
    """Maps observations ``(..., O)`` to the part that a policy sees; callable.

    The policy's inputs are the latest ``history`` parts, oldest first, of total length ``history * P``; at the start of
    an episode its first part is repeated.
    """

    size: int
    """Length O of the task's flat observation."""
    part_size: int
    """Length P of the part."""
    columns: tuple[int, ...] | None = None
    """The columns of the part; None for all of them, or with ``function``."""
    function: Part | None = None
    history: int = 1
    """Number of stacked parts."""
    space: OwnSpace | None = None
    """The task's original observation space, if that is a dict or a box of several axes."""

    @property
    def is_full(self) -> bool:
        """Whether the full observation is visible."""
        return self.columns is None and self.function is None

    @property
    def shown(self) -> OwnSpace | None:
        """The task's original space, if an SB3 policy can read that instead: for a full view without history."""
        return self.space if self.is_full and self.history == 1 and is_combined(self.space) else None

    @property
    def map(self) -> tuple[int, ...] | Part | None:
        """The part as an ``observation_map`` of ``Teacher.load``; None is all."""
        return self.columns if self.function is None else self.of_torch

    @property
    def input_size(self) -> int:
        """Length I of a policy's input."""
        return self.history * self.part_size

    def __call__(self, observations: np.ndarray) -> np.ndarray:
        """The part ``(..., P)`` of observations ``(..., O)``."""
        if self.function is None:
            return observations if self.columns is None else observations[..., list(self.columns)]
        flat = np.array(observations, np.float32).reshape(-1, self.size)  # a copy: the function may write into it
        part: np.ndarray = self.function(torch.from_numpy(flat)).numpy()
        return part.reshape(*observations.shape[:-1], self.part_size)

    def of_torch(self, observations: Tensor) -> Tensor:
        """The part ``(B, P)`` of observations ``(B, O)``."""
        if self.function is not None:
            return self.function(observations.clone())
        return observations if self.columns is None else observations[:, list(self.columns)]

    def flat(self, observation: Any) -> np.ndarray:
        """Flatten a user's observations, original or flat, to ``(..., O)``; a policy's own inputs pass unchanged.

        Raises:
            PolicyKDError: they are neither the task's nor the policy's own inputs.
        """
        if isinstance(observation, Mapping) and not isinstance(self.space, spaces.Dict):
            raise PolicyKDError("predict: got a dict of observations, but the task has vectors")
        if isinstance(observation, tuple) and len(observation) == 2 and isinstance(observation[1], Mapping):
            raise PolicyKDError("predict: got what reset() returns: pass its first element, the observation")
        try:
            array = as_rows(self.space, observation)
        except ValueError as error:
            raise PolicyKDError(f"predict: {one_line(error)}") from None
        if array.ndim == 0 or array.shape[-1] not in (self.size, self.input_size):
            own = f" (or {self.input_size} that the policy reads)" if self.input_size != self.size else ""
            raise PolicyKDError(
                f"predict: the task's observations have {self.size} numbers{own}, got an array of shape {array.shape}"
            )
        return array

    def stack_history(self, observations: np.ndarray, starts: np.ndarray) -> np.ndarray:
        """Inputs ``(n, I)`` at observations ``(n, O)`` of consecutive episodes, which begin where ``starts (n,)``."""
        nbytes = (8 + 4 * self.part_size) * self.history * len(observations)
        require_memory(nbytes, f"{len(observations):,} states with a history of {self.history:,}", "history")
        places = np.arange(len(observations))
        first = np.maximum.accumulate(np.where(starts, places, 0))
        latest = np.maximum(places[:, None] - np.arange(self.history)[::-1], first[:, None])
        return self(observations)[latest].reshape(len(observations), -1)

    def push(self, parts: np.ndarray, stack: np.ndarray | None, starts: np.ndarray) -> np.ndarray:
        """Push one part per episode ``(n, P)`` onto the stacks ``(n, history, P)``, which restart at ``starts``."""
        first = np.repeat(parts[:, None], self.history, axis=1)
        if stack is None:
            return first
        if stack.shape != first.shape:
            raise PolicyKDError(f"predict: the state has shape {stack.shape}, and {first.shape} is needed")
        pushed = np.concatenate((stack[:, 1:], parts[:, None]), axis=1)
        return np.where(np.asarray(starts, bool)[:, None, None], first, pushed)

    def push_torch(self, parts: Tensor, stack: Tensor | None, starts: Tensor) -> Tensor:
        """``push`` for tensors, on their device."""
        parts = parts.unsqueeze(1)
        first = parts.expand(-1, self.history, -1)
        if stack is None:
            return first
        return torch.where(starts.bool().view(-1, 1, 1), first, torch.cat((stack[:, 1:], parts), 1))

    def for_episode(self) -> Callable[[np.ndarray], np.ndarray]:
        """A function for one episode, from each observation ``(O,)`` in turn to a policy's input ``(I,)``."""
        stack: np.ndarray | None = None

        def look(observation: np.ndarray) -> np.ndarray:
            nonlocal stack
            stack = self.push(self(np.asarray(observation)[None]), stack, np.zeros(1, bool))
            return stack.reshape(-1)

        return look

    def wrap(self, env: gym.Env) -> gym.Env:
        """Wrap the task so that it returns this view; ``full_observation`` and ``info`` keep the full observation."""
        if self.is_full and self.history == 1:
            return env
        if self.function is None:
            env = SelectObservation(env, tuple(range(self.size)) if self.columns is None else self.columns)
        else:
            env = MapObservation(env, self)
        return StackObservation(env, self.history) if self.history > 1 else env


class MapObservation(gym.ObservationWrapper):
    """Maps the observation by a function; ``full_observation`` and ``info`` keep the full one."""

    def __init__(self, env: gym.Env, view: View) -> None:
        super().__init__(env)
        self.view_function = view.__call__
        self.full_observation = np.zeros(view.size, np.float32)
        self.observation_space = spaces.Box(-np.inf, np.inf, (view.part_size,), np.float32)

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Take a step; ``info["full_observation"]`` is the full observation."""
        observation, reward, terminated, truncated, info = super().step(action)
        return observation, reward, terminated, truncated, {**info, "full_observation": self.full_observation}

    def observation(self, observation: np.ndarray) -> np.ndarray:
        """Keep the full observation and return the part ``(P,)``."""
        self.full_observation = observation
        return self.view_function(observation)


LONGEST = 10_000
"""Maximum history: the step limit of evaluation episodes."""


def view_of(
    what: str,
    env: gym.Env,
    chosen: Choice = None,
    groups: Mapping[str, Sequence[int]] | None = None,
    history: int = 1,
) -> View:
    """Make the view for a choice of observations on a task.

    Args:
        what: the setting, for errors.
        env: the task.
        chosen: the part.
        groups: named columns in addition to the task's own.
        history: number of stacked parts.

    Raises:
        PolicyKDError: there is no such group or column, the function fails, or the history is too long.
    """
    require(history <= LONGEST, "history", history, f"must be at most {LONGEST:,}")
    assert env.observation_space.shape is not None
    size, space = env.observation_space.shape[0], own_space(env)
    if chosen is None:
        return View(size, size, history=history, space=space)
    if callable(chosen):
        return View(size, _width(what, chosen, size), None, chosen, history, space)
    columns = columns_of(what, chosen, {**groups_of(env), **(groups or {})})
    if not columns or min(columns) < 0 or max(columns) >= size:
        raise PolicyKDError(f"{what}: columns must lie between 0 and {size - 1}, got {list(columns)}")
    return View(size, len(columns), columns, None, history, space)


def views_of(
    make: EnvFactory, student: Choice, teacher: Choice, groups: Mapping[str, Sequence[int]], history: int
) -> tuple[View, View]:
    """The views of students, with ``history`` stacked, and of their teacher; arguments as in ``view_of``."""
    with make() as probe:
        own = view_of("student_observations", probe, student, groups, history)
        taught = view_of("teacher_observations", probe, teacher, groups)
    return own, taught


def space_of(make: EnvFactory) -> spaces.Box:
    """The observation space of a task.

    Raises:
        PolicyKDError: it is not supported.
    """
    with make() as probe:
        observations, _ = check_spaces(probe)
    return observations


def _width(what: str, function: Part, size: int) -> int:
    """Length P of a function's output on observations."""
    with reraise(f"{what}: the function fails on observations (2, {size}): ", text=one_line):
        seen = function(torch.zeros(2, size))
    if not isinstance(seen, Tensor) or seen.ndim != 2 or len(seen) != 2 or not seen.shape[1]:
        got = tuple(seen.shape) if isinstance(seen, Tensor) else type(seen).__name__
        raise PolicyKDError(f"{what}: the function must return a tensor (B, P) for observations (B, {size}), got {got}")
    return int(seen.shape[1])
