"""Expert episodes as data, from teachers, planners and controllers with state; all, or only the good ones."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import gymnasium as gym
import numpy as np
import torch
from torch import nn

from policykd.core.errors import PolicyKDError
from policykd.core.fields import as_type, require
from policykd.core.seeding import env_seed
from policykd.distillation.labels import Labels
from policykd.memory import LabelledStates
from policykd.memory.logged import LoggedStates
from policykd.tasks.contract import task_name
from policykd.tasks.evaluate import episode_limit, refuse_unless_finite, too_long
from policykd.tasks.spaces import ActionScale, DiscreteActions, EnvFactory, action_scale, check_spaces, find_task
from policykd.teachers.controllers import reset_copy
from policykd.teachers.teacher import Teacher

SUCCESS = ("is_success", "success")
"""Keys of a task's ``info`` that mark success."""
Keep = Literal["all", "success"] | float
"""Which episodes to keep: all, those that the task marks as success, or those with a return at or above a quantile."""


@dataclass(frozen=True)
class Demonstrations:
    """States of whole episodes in order, with an expert's actions."""

    observations: np.ndarray
    """Raw ``(n, O)``, float32."""
    actions: np.ndarray
    """``(n, A)`` in [-1, 1], or one-hot if discrete, float32."""
    episodes: np.ndarray
    """Index of each state's episode ``(n,)``."""
    returns: np.ndarray
    """Undiscounted return of each episode ``(E,)``."""
    successes: np.ndarray | None
    """Whether each episode was a success ``(E,)``; None if the task does not report success."""

    def keep(self, which: Keep) -> Demonstrations:
        """Keep some of the episodes.

        Raises:
            PolicyKDError: the task does not report success, no episode is left, or the quantile is not in [0, 1].
        """
        if which == "all":
            return self
        if which == "success":
            if self.successes is None:
                raise PolicyKDError(f"keep: success needs a task whose info has {' or '.join(SUCCESS)}; or a quantile")
            chosen = self.successes
        elif isinstance(which, float) and 0 <= which < 1:
            chosen = self.returns >= np.quantile(self.returns, which)
        else:
            raise PolicyKDError(f"keep: {which!r} must be all, success, or a quantile of returns in [0, 1)")
        if not chosen.any():
            raise PolicyKDError(f"keep: none of {len(chosen)} episodes was a success: nothing to learn from")
        rows, kept = chosen[self.episodes], np.flatnonzero(chosen)
        return Demonstrations(
            self.observations[rows],
            self.actions[rows],
            np.searchsorted(kept, self.episodes[rows]),
            self.returns[kept],
            None if self.successes is None else self.successes[kept],
        )

    def fill(self, student: Any, std: float = 0.1) -> None:
        """Append all states to the data set of every student, in the students' view, history included.

        Args:
            student: a ``TeacherStudent`` of a method without RL, before it learns.
            std: standard deviation to assume for the expert, in actions scaled to [-1, 1].

        Raises:
            PolicyKDError: its method has no data set of states or also learns values, or these states are of another
                task or too many.
        """
        recipe, learner = _recipe_for(student, *self.observations.shape), student.learner
        logged = LoggedStates.read(self)
        actions = torch.from_numpy(logged.as_learner_actions(student.action_scale))
        squashed = learner.gaussian and learner.memory == "replay"
        labels = Labels.of_actions(actions, learner.discrete, std, squashed).pack()
        seen = torch.from_numpy(student.view.stack_history(self.observations, logged.starts()))
        recipe.take(*(rows.to(student.device).expand(student.n_learners, -1, -1) for rows in (seen, labels)))


def demonstrate(
    experts: Any, env: str | gym.Env | EnvFactory, n_episodes: int, seed: int = 0, keep: Keep = "all"
) -> Demonstrations:
    """Play episodes of experts without noise.

    Args:
        experts: a ``Teacher``, or anything ``Teacher.load`` takes (a path, an agent, a module); or a controller: a
            function ``observation (O,) -> action (A,)`` in the task's units, or such an object with ``reset()``, called
            before each episode. In a list, expert i plays episodes i, i + len, ...
        env: the task.
        n_episodes: number of episodes to play; ``keep`` may leave fewer.
        seed: of the initial states.
        keep: which of them to keep.

    Raises:
        PolicyKDError: an expert fails, an action is not finite or has the wrong size, ``keep`` leaves nothing, or the
            task raised or returned values that are not finite.
    """
    several = list(experts) if isinstance(experts, list | tuple) else [experts]
    n_episodes, seed = as_type("n_episodes", n_episodes, int), as_type("seed", seed, int)
    if n_episodes < 1 or not several:
        raise PolicyKDError(
            f"demonstrations: need at least one expert and one episode, got {len(several)} and {n_episodes}"
        )
    several = [_loaded(expert, env) for expert in several]
    states: list[np.ndarray] = []
    actions, episodes, returns, successes = [], [], np.zeros(n_episodes), []
    with find_task(env).make() as made:
        scale, limit, name = action_scale(check_spaces(made)[1]), episode_limit(made), task_name(made)
        for episode in range(n_episodes):
            act = _reset(several[episode % len(several)], scale)
            observation = np.asarray(made.reset(seed=env_seed(seed, episode, "evaluation"))[0], np.float32)
            refuse_unless_finite(name, "reset", observation)
            ended, said, begun = False, None, len(states)
            while not ended:
                states.append(observation)
                actions.append(act(observation.copy()))  # an expert may write into it
                episodes.append(episode)
                seen, reward, terminated, truncated, info = made.step(scale.to_env(actions[-1]))
                observation = np.asarray(seen, np.float32)
                refuse_unless_finite(name, f"step {len(states) - begun} of an episode", observation, float(reward))
                returns[episode] += float(reward)
                ended = terminated or truncated or too_long(name, len(states) - begun, limit)
                said = next((bool(info[key]) for key in SUCCESS if key in info), said)
            successes.append(said)
    known = None if any(said is None for said in successes) else np.array(successes, bool)
    taken = np.stack(actions).astype(np.float32)
    return Demonstrations(np.stack(states), taken, np.array(episodes), returns, known).keep(keep)


def _recipe_for(student: Any, count: int, size: int) -> Any:
    """The student's recipe, checked to have room for ``count`` states of this size."""
    recipe: Any = getattr(student, "recipe", None)
    if not hasattr(recipe, "take") or not isinstance(recipe.dataset, LabelledStates):
        raise PolicyKDError(
            f"fill: a {type(student).__name__} cannot be filled with states: give a TeacherStudent of dagger, bc or "
            "student_driven, without gru"
        )
    if size != student.view.size:
        raise PolicyKDError(f"fill: states have {size} observations, and {student.env_id} has {student.view.size}")
    values, most = student.teaching.distill_value_coef, recipe.dataset.capacity
    require(values == 0, "distill_value_coef", values, "needs a teacher with a value: demonstrations have none")
    require(count <= most, "dataset_size", most, f"keeps fewer than {count:,} states")
    return recipe


def _loaded(expert: Any, env: str | gym.Env | EnvFactory) -> Any:
    """An expert as a ``Teacher``, if ``Teacher.load`` takes it; controllers as they are."""
    if isinstance(expert, Teacher) or (callable(expert) and not isinstance(expert, nn.Module)):
        return expert
    if isinstance(expert, str | Path | nn.Module) or hasattr(expert, "predict"):
        return Teacher.load(expert, env)
    raise PolicyKDError(
        f"demonstrations: a {type(expert).__name__} is not an expert: give what Teacher.load takes, or a function "
        "observation (O,) -> action (A,)"
    )


def _reset(expert: Any, scale: ActionScale | DiscreteActions) -> Callable[[np.ndarray], np.ndarray]:
    """An expert reset for a new episode, as a function from raw observation ``(O,)`` to action ``(A,)`` in [-1, 1]."""
    act = expert
    if isinstance(expert, Teacher):
        act = _with_memory(expert)
    elif hasattr(expert, "reset"):
        act = reset_copy(expert)

    def scaled(observation: np.ndarray) -> np.ndarray:
        action = np.asarray(act(observation), np.float32)
        if action.shape != scale.shape or not np.isfinite(action).all():
            name = getattr(expert, "__name__", type(expert).__name__)
            wanted = f"{scale.size} finite actions" if scale.shape else "the number of an action"
            raise PolicyKDError(f"demonstrations: {name} gave {action}, not {wanted}")
        return scale.from_env(action)

    return scaled


def _with_memory(teacher: Teacher) -> Callable[[np.ndarray], np.ndarray]:
    """A teacher that carries its memory, if any, through one episode."""
    memory: Sequence[np.ndarray] | None = None

    def act(observation: np.ndarray) -> np.ndarray:
        nonlocal memory
        start = np.array([memory is None])
        action, memory = teacher.predict(observation, state=memory, episode_start=start)  # type: ignore[arg-type]
        return action

    return act
