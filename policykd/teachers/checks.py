"""Signs that a teacher differs from what was trained: statistics, action bounds and returns that do not fit the task.

Also checks what a user's ``task_of`` returns.
"""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
from gymnasium.spaces import Box
from torch import Tensor

from policykd.core.errors import PolicyKDError
from policykd.teachers.policy import Policy
from policykd.teachers.score import TeacherScore
from policykd.teachers.task import TaskSpaces, other_task

log = logging.getLogger("policykd")
DEVIATIONS = 32.0
"""A feature this many standard deviations away at the start of every episode of 1,000 steps was never seen in
training: these values alone would have made the deviation larger."""
SEVERAL = 5.0
"""Standard deviations: averaged over first observations, hardly any feature of a standard Gaussian is so far away."""
STANDARD = 0.1
"""Maximum distance of means from 0 and deviations from 1 in statistics of observations already normalised."""
FAR_BELOW = 0.5
"""A teacher with less than this fraction of its recorded return, above random actions, is not what was trained."""


def warn_axes(policy: Policy, task: TaskSpaces) -> None:
    """Warn if a teacher's observations have several axes and the task's differ: flattened, their order may differ."""
    read, given = (space.shape if isinstance(space, Box) else () for space in (policy.space, task.space))
    if sum(length > 1 for length in read) > 1 and given and given != read:
        log.warning(
            "teacher %s reads observations of shape %s, and %s gives %s, row by row: make it give the teacher's (SB3's "
            "VecFrameStack stacks along the last axis, Gymnasium's FrameStackObservation along a new first one)",
            policy.source,
            read,
            task.env_id,
            given,
        )


def check_statistics(policy: Policy, examples: Tensor, env_id: str) -> None:
    """Refuse a normaliser fitted to other observations; warn if it seems fitted to already normalised ones.

    Args:
        policy: with its normalisers.
        examples: initial observations of the task ``(n, O)`` as the teacher reads them.
        env_id: the task.

    Raises:
        PolicyKDError: most of the observation lies outside everything seen in training.
    """
    first = policy.normalisers[0] if policy.normalisers else None  # the one that reads the task's observations
    if first is None or first.mean is None or first.std is None:
        return
    away = ((examples.double() - first.mean) / first.std).abs().amin(0)
    if (away > DEVIATIONS).double().mean() > 0.5:
        worst = int(away.argmax())
        far = f"feature {worst} of {env_id} starts at least {float(away[worst]):,.0f} deviations away"
        raise PolicyKDError(
            f"teacher: {policy.source} has a VecNormalize whose statistics do not match these observations ({far}): "
            "it may be from another task, or wrap another VecNormalize: give the live model with its environment, or "
            "the right vecnormalize="
        )
    standard = first.mean.abs().max() < STANDARD and (first.std - 1).abs().max() < STANDARD
    away = ((examples.double() - first.mean) / first.std).abs().mean(0)
    if standard and away.max() > SEVERAL:
        log.warning(
            "teacher %s has a VecNormalize whose means are about 0 and deviations about 1, and %s starts %s deviations "
            "away: it wraps another VecNormalize, which is missing, or was never updated: give the live model with its "
            "environment, or the right vecnormalize=",
            *(policy.source, env_id, f"{float(away.max()):,.0f}"),
        )


def warn_bounds(policy: Policy, task: TaskSpaces) -> None:
    """Warn if a teacher's action bounds are not the task's, with the factor by which its actions are stretched."""
    low, high = task.actions.bounds
    if policy.low is None or policy.high is None or low is None or high is None or len(policy.low) != len(low):
        return
    trained, here = policy.high - policy.low, high - low
    same = np.allclose(policy.low, low, rtol=1e-5) and np.allclose(policy.high, high, rtol=1e-5)
    if same:
        return
    factors = sorted({float(f"{factor:.4g}") for factor in here / np.where(trained > 0, trained, 1)})
    factor = f"{factors[0]:g}" + (f" to {factors[-1]:g}" if len(factors) > 1 else "")
    factor += "" if np.allclose(policy.high + policy.low, high + low, atol=1e-6) else " and shifted"
    log.warning(
        "teacher %s was trained with actions from %s to %s, and %s takes %s to %s: its actions are scaled by %s; "
        "if they are already in the task's units, give a function that clips them",
        *(policy.source, _text(policy.low), _text(policy.high), task.env_id, _text(low), _text(high), factor),
    )


def check_recorded(policy: Policy, score: TeacherScore) -> None:
    """Warn if a teacher returns far less than recorded in its folder."""
    recorded = policy.recorded
    if recorded is None or other_task(policy.source, score.env_id) is not None:
        return
    gained, once = score.mean - score.random_mean, recorded.mean - score.random_mean
    if once <= 0 or gained >= FAR_BELOW * once:
        return
    if not policy.normalisers:
        cause = "its vecnormalize.pkl is missing (vecnormalize=FILE)"
    elif policy.low is not None and not np.allclose(policy.low, -1):
        cause = "its action bounds, its VecNormalize or the task's version differ"
    else:
        cause = "its VecNormalize is the wrong one, or the task's version or settings differ"
    log.warning(
        "teacher %s returns %s on %s, and %s recorded %s: most likely %s",
        *(policy.source, f"{score.mean:,.1f}", score.env_id, recorded.file, f"{recorded.mean:,.1f}", cause),
    )


def as_indices(chosen: Any, count: int, teachers: int) -> Tensor:
    """Check the output of a user's ``task_of`` for ``count`` observations: indices of teachers ``(B,)``, int64.

    Raises:
        PolicyKDError: it is not the index of a teacher at each observation.
    """
    if not isinstance(chosen, Tensor) or chosen.shape != (count,):
        got = tuple(chosen.shape) if isinstance(chosen, Tensor) else type(chosen).__name__
        raise PolicyKDError(f"task_of: must return a tensor ({count},) for {count} observations, got {got}")
    numbers = chosen.long()
    if wrong := chosen[(numbers != chosen) | (numbers < 0) | (numbers >= teachers)].tolist():
        raise PolicyKDError(f"task_of: teachers are numbered from 0 to {teachers - 1}, got {wrong[0]}")
    return numbers


def _text(bounds: np.ndarray) -> str:
    """``-1`` if all are equal, otherwise all of them."""
    values = [f"{value:g}" for value in bounds]
    return values[0] if len(set(values)) == 1 else f"[{', '.join(values)}]"
