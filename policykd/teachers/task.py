"""Sizes and action bounds of the task that a teacher must fit, and the likely cause if it does not."""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np

from policykd.core.errors import PolicyKDError
from policykd.tasks.contract import layers
from policykd.tasks.flat import own_space
from policykd.tasks.groups import OwnSpace, groups_of
from policykd.tasks.spaces import ActionScale, DiscreteActions, EnvFactory, action_scale, check_spaces, find_task
from policykd.teachers import versions

VERSIONS: dict[str, dict[int, str]] = {
    "Ant": {
        111: "Ant-v2 and v3 have 111 observations",
        105: "Ant-v5 has 105 observations",
        27: 'Ant-v4 has 27, which gym.make("Ant-v5", include_cfrc_ext_in_observation=False) also gives',
        28: "the PyBullet Ant has 28",
    },
    "Humanoid": {376: "Humanoid-v2 to v4 have 376 observations", 348: "Humanoid-v5 has 348 observations"},
    "HumanoidStandup": {376: "HumanoidStandup-v2 to v4 have 376", 348: "HumanoidStandup-v5 has 348"},
    "HalfCheetah": {26: "the PyBullet HalfCheetah has 26"},
    "Hopper": {15: "the PyBullet Hopper has 15"},
    "Walker2d": {22: "the PyBullet Walker2d has 22"},
    "InvertedDoublePendulum": {11: "InvertedDoublePendulum-v2 to v4 have 11", 9: "InvertedDoublePendulum-v5 has 9"},
    "Pusher": {23: "all versions of Pusher have 23"},
    "Reacher": {11: "Reacher-v2 and v4 have 11", 10: "Reacher-v5 has 10"},
}
"""Observation sizes that identify a task's version."""
TIME_LEFT = "lambda o: torch.nn.functional.pad(o, (0, 1), value=1.0)"
"""The feature that sb3-contrib's ``TimeFeatureWrapper`` adds in ``test_mode``: all of the time left."""
EXAMPLES = 3


class TaskSpaces(NamedTuple):
    """Spaces and construction of a task, read from one instance."""

    env_id: str
    observation_size: int
    actions: ActionScale | DiscreteActions
    examples: np.ndarray
    """Initial observations of some episodes ``(n, O)``, float32."""
    wrappers: Mapping[str, Mapping[str, Any]] = MappingProxyType({})
    """The environment's wrappers: class names, each with its plain attributes by their public names."""
    of_gymnasium: frozenset[str] = frozenset()
    """Which of these are Gymnasium's own classes."""
    kwargs: Mapping[str, Any] = MappingProxyType({})
    """Keyword arguments it was made with."""
    groups: Mapping[str, tuple[int, ...]] = MappingProxyType({})
    """Named columns of its observation."""
    space: OwnSpace | None = None
    """Its original observation space, if that is a dict or a box of several axes."""

    @property
    def sizes(self) -> Sizes:
        """Sizes that a teacher must fit."""
        return Sizes(self.observation_size, self.actions.size, isinstance(self.actions, DiscreteActions))

    def bounds(self, source: str) -> tuple[np.ndarray, np.ndarray]:
        """Smallest and largest action ``(A,)``, for a teacher of continuous actions.

        Raises:
            PolicyKDError: the task's actions are discrete.
        """
        if isinstance(self.actions, DiscreteActions):
            raise PolicyKDError(f"teacher: {source} has continuous actions, but {self.env_id} has discrete ones")
        return self.actions.bounds


class Sizes(NamedTuple):
    """Sizes that a teacher and its task must share."""

    observations: int
    actions: int
    choice: bool = False
    """Whether actions are discrete."""


def inspect_task(env: str | gym.Env | EnvFactory) -> TaskSpaces:
    """Make the task once and read its spaces and wrappers.

    Raises:
        PolicyKDError: it cannot be made, or its spaces are not supported.
    """
    task = find_task(env)
    with task.make() as probe:
        observations, actions = check_spaces(probe)
        examples = np.stack([probe.reset(seed=seed)[0] for seed in range(EXAMPLES)]).astype(np.float32)
        groups, space = groups_of(probe), own_space(probe)
    inwards = [layer for layer in layers(probe) if isinstance(layer, gym.Wrapper)]
    wrappers = {type(layer).__name__: _plain(layer) for layer in reversed(inwards)}  # of one class the outermost
    own = {kind.__name__ for kind in map(type, inwards) if kind.__module__.startswith("gymnasium.")}
    kwargs = {} if probe.spec is None else as_yaml(probe.spec.kwargs)
    sizes = observations.shape[0], action_scale(actions)
    return TaskSpaces(task.env_id, *sizes, examples, wrappers, frozenset(own), kwargs, groups, space)


def _plain(layer: gym.Wrapper) -> dict[str, Any]:
    """A wrapper's numbers, strings and lists: its attributes, or its arguments if Gymnasium records them."""
    held = {name.lstrip("_"): value for name, value in vars(layer).items()} | getattr(layer, "_saved_kwargs", {})
    return {name: value for name, value in as_yaml(held).items() if isinstance(value, bool | int | float | str | list)}


def as_yaml(options: Mapping[str, Any]) -> dict[str, Any]:
    """Options as in YAML: lists instead of tuples."""
    return {name: list(value) if isinstance(value, tuple) else value for name, value in options.items()}


def check_fits(source: str, teacher: Sizes, task: Sizes, env_id: str) -> None:
    """Refuse a teacher whose sizes differ from the task's.

    Raises:
        PolicyKDError: names both shapes and the likely cause.
    """
    if teacher != task:
        raise PolicyKDError(
            f"teacher: {source} reads {teacher[0]} observations and {'chooses one of' if teacher.choice else 'gives'} "
            f"{teacher[1]} actions, {env_id} has {task[0]} and {'a choice of ' if task.choice else ''}{task[1]}"
            f"{_cause(source, teacher, task, env_id)}"
        )


def other_task(source: str, env_id: str) -> str | None:
    """The task that a teacher's file is named after, if that is not some version of ``env_id``."""
    base = base_name(env_id)
    parts = re.findall(r"([A-Za-z0-9]+)-v\d+", source)
    names = {part for part in parts if any(known.rsplit("-v", 1)[0].split("/")[-1] == part for known in gym.registry)}
    # HalfCheetahDelayed and its like are HalfCheetah to a teacher.
    return None if not names or any(base.startswith(name) for name in names) else min(names)


def base_name(env_id: str) -> str:
    """``Ant`` of ``module:Namespace/Ant-v5``."""
    return re.split(r"[:/]", env_id)[-1].rsplit("-v", 1)[0]


def _cause(source: str, teacher: Sizes, task: Sizes, env_id: str) -> str:
    """The likely cause, as the end of an error line."""
    if other := other_task(source, env_id):
        return f"; its name says that it was trained on {other}"
    if teacher[1:] != task[1:]:
        return "; it was trained on another task"
    known_sizes = next((sizes for name, sizes in VERSIONS.items() if base_name(env_id).startswith(name)), {})
    known = [known_sizes[size] for size in (teacher[0], task[0]) if size in known_sizes]
    timed = "; one more may be the time of the zoo's TimeFeatureWrapper"
    if teacher[0] == task[0] + 1 and len(known) < 2:
        return f"{timed}: wrap the task in it, or give observation_map={TIME_LEFT}"
    if teacher[0] not in known_sizes and teacher[0] - 1 in known_sizes:
        return f"{timed}, and {known_sizes[teacher[0] - 1]}: make the task as the teacher knows it"
    if known:
        how = versions.advice(base_name(env_id), (teacher[0], task[0])) or "give observation_map"
        return f"; {' and '.join(known)}: make the task as the teacher knows it, or {how}"
    frames, left = divmod(teacher[0], task[0])
    if frames > 1 and not left:
        stack = f'FrameStackObservation(env, {frames}, padding_type="zero")'
        return f"; if it reads {frames} of them, stacked as SB3's VecFrameStack does, wrap the task: {stack}"
    return "; if it reads only some of them, or others, give observation_map"
