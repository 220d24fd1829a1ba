"""Checks that an exported file acts like its learner; otherwise it is not written."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from policykd.core.errors import PolicyKDError
from policykd.core.files import as_path, atomic_path, blocking_file, check_unicode
from policykd.export.exportable import Exportable, Inputs
from policykd.learners import PPO
from policykd.tasks.spaces import DiscreteActions

TOLERANCE = 1e-5
"""Maximum distance of an exported policy from its learner, in actions scaled to [-1, 1]."""
CHECKED = 256
"""Number of observations to compare at."""

Act = Callable[[np.ndarray], np.ndarray]
"""Maps raw observations ``(B, O)`` to actions ``(B, A)`` in the task's units, or to discrete actions ``(B,)``."""


class Difference(NamedTuple):
    """Distance from the learner's actions, scaled to [-1, 1]; for discrete actions 1 where they differ."""

    worst: float
    mean: float
    observations: int
    """Number of observations compared."""


Check = Callable[[Exportable, int, Act, str], Difference]
"""Measures the distance of a function from learner k of an agent; raises if it is too far."""


def from_learner_inputs(agent: Exportable, inputs: Inputs, act: Act) -> Act:
    """A written file as a function of the learner's inputs."""
    return (lambda parts: act(full_inputs(agent, inputs, parts))) if inputs == "full" else act


def full_inputs(agent: Exportable, inputs: Inputs, parts: np.ndarray) -> np.ndarray:
    """Inputs ``(n, O)`` of a file for a student that sees ``parts (n, P)``; the other columns are arbitrary."""
    view = agent.view
    if inputs == "own" or view.columns is None:
        return parts
    observations = np.random.default_rng(1).standard_normal((len(parts), view.size)).astype(np.float32)
    observations[:, list(view.columns)] = parts
    return observations


def as_act(policy: Callable[[Tensor], Tensor]) -> Act:
    """A module as a function of arrays."""
    return lambda observations: policy(torch.from_numpy(observations)).numpy()


def check(agent: Exportable, k: int, act: Act, what: str) -> Difference:
    """Measure the distance of ``act`` from learner ``k`` at random observations.

    Raises:
        PolicyKDError: it exceeds ``TOLERANCE``.
    """
    observations = random_observations(agent, k)
    return check_distances(agent, action_distances(agent, act(observations), agent.actions_at(observations, k)), what)


def check_distances(agent: Exportable, distances: np.ndarray, what: str) -> Difference:
    """Summarise distances ``(n, A)`` or ``(n,)`` after checking that each is small enough.

    Raises:
        PolicyKDError: one exceeds ``TOLERANCE`` and the resolution of float32.
    """
    if not (distances <= _tolerance(agent)).all():
        raise PolicyKDError(
            f"export: {what} is up to {distances.max():.1e} from the learner (allowed {TOLERANCE:.0e}): not written"
        )
    return summarise(distances)


def _tolerance(agent: Exportable) -> np.ndarray:
    """Tolerance for each action ``(A,)``, or for discrete ones: at least two steps of float32 in the task's units."""
    scale = agent.action_scale
    if isinstance(scale, DiscreteActions):
        return np.array(TOLERANCE)
    step = np.spacing(np.maximum(*map(np.abs, scale.bounds)))  # rounding error of values far from 0
    return np.maximum(TOLERANCE, 2 * step / np.where(scale.half_range > 0, scale.half_range, 1.0))


def summarise(distances: np.ndarray) -> Difference:
    """Summarise distances ``(n, A)`` or ``(n,)``."""
    return Difference(float(distances.max()), float(distances.mean()), len(distances))


def compare(agent: Exportable, k: int, act: Act, observations: np.ndarray) -> Difference:
    """Distance of ``act`` from learner ``k`` at raw observations ``(n, O)``."""
    return summarise(action_distances(agent, act(observations), agent.actions_at(observations, k)))


def action_distances(agent: Exportable, one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Distances of the task's actions, scaled to [-1, 1]; for discrete actions 1 where they differ."""
    if isinstance(agent.action_scale, DiscreteActions):
        return (one != other).astype(np.float64)
    half = agent.action_scale.half_range
    distances: np.ndarray = np.abs(one - other) / np.where(half > 0, half, 1.0)
    return distances


def random_observations(agent: Exportable, k: int) -> np.ndarray:
    """Random observations ``(n, O)`` in the learner's range and far beyond."""
    generator, learner = np.random.default_rng(0), agent.learner
    spread = generator.standard_normal((CHECKED, agent.observation_space.shape[0]))
    spread *= 10 ** generator.uniform(-2, 1.5, (CHECKED, 1))
    if agent.view.columns is not None and agent.view.history == 1:  # a column read twice has the same value
        spread = spread[:, [agent.view.columns.index(column) for column in agent.view.columns]]
    if isinstance(learner, PPO) and learner.config.normalize_observation:
        mean, std = learner.observation_stats.mean[k].cpu().numpy(), learner.observation_stats.std[k].cpu().numpy()
        spread = mean + std * spread
    return spread.astype(np.float32)


def write_compared(
    agent: Exportable,
    k: int,
    path: Path,
    write: Callable[[Path], None],
    read: Callable[[Path], Act],
    checked: Check | None = None,
) -> Difference:
    """Write ``path`` atomically, unless the file read back does not act like learner ``k``.

    Args:
        agent: the agent.
        k: index of the learner.
        path: the file.
        write: writes it.
        read: reads it as a deployment would.
        checked: the check of its actions; None is ``check``.

    Raises:
        PolicyKDError: it does not act like the learner, or ``path`` exists.
    """
    require_free(path)
    with atomic_path(path) as temporary:
        write(temporary)
        act = read(temporary)
        difference = (checked or check)(agent, k, act, str(path))
        one = random_observations(agent, k)[:1]
        if act(one).shape != (1, *agent.action_scale.shape):
            raise PolicyKDError(f"export: {path} takes no single observation: not written")
    return difference


def require_free(path: str | Path, command: str = "export") -> Path:
    """Refuse an existing path or dangling link, a path below a file, and a name that torch and onnx cannot open."""
    path = as_path(command, path)
    check_unicode(path)
    if os.path.lexists(path):
        raise PolicyKDError(f"{command}: {path} exists: choose another --out")
    if (file := blocking_file(path)) is not None:
        raise PolicyKDError(f"{command}: {path} cannot be made: {file} is a file: choose another --out")
    return path
