"""The raw results of a cell: a row per evaluation and learner, and how they were made."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from policykd.benchmark.spec import Cell
from policykd.core.parsing import parse_json
from policykd.learners.config import Config, OffPolicyConfig, PPOConfig

AS_ONE = ("trained", "group", "greedy", "student")
"""Phases that are ways of making one policy of a group."""


@dataclass(frozen=True)
class Row:
    """One evaluation of one learner: a line of the raw results."""

    backbone: str
    phase: str
    """``curve``: on the way. ``final``: after it, on initial states that no other evaluation had. On the same ones:
    ``trained``, the peer that did best in training; ``group`` and ``greedy``, the peers acting as one; ``student``,
    what a group was distilled into."""
    seed: int
    learner: int
    """Number of the learner in its group, from 0."""
    steps: int
    """Environment steps so far of all learners of the group."""
    updates: int
    """Gradient updates so far of all learners of the group."""
    episodes: int
    mean: float
    """Mean undiscounted return of the episodes, played without noise."""
    std: float
    """Their standard deviation."""
    seconds: float
    """Seconds of training so far of the process: all seeds of ours at once, one seed of SB3's."""


@dataclass(frozen=True)
class CellResult:
    """What a cell leaves."""

    rows: list[Row]
    provenance: dict[str, Any]
    """How it was made: the cell, versions, commit, machine, networks, seconds."""


def row(
    cell: Cell, phase: str, who: tuple[int, int], steps: int, updates: int, returns: np.ndarray, seconds: float
) -> Row:
    """The row of one learner, (seed, number), from its returns ``(n,)``."""
    mean, std = float(returns.mean()), float(returns.std())
    return Row(cell.backbone, phase, *who, steps, updates, len(returns), mean, std, round(seconds, 1))


def gradient_updates(config: Config, steps: int) -> int:
    """Gradient updates of one learner, the busiest of its group, in its first ``steps`` own environment steps."""
    if isinstance(config, PPOConfig):
        rollout = config.n_steps * config.n_envs
        return steps // rollout * config.n_epochs * math.ceil(rollout / config.batch_size)
    assert isinstance(config, OffPolicyConfig)
    done, random = (count // config.n_envs for count in (steps, config.learning_starts))  # of all environments at once
    due = done // config.train_freq - min(done, random) // config.train_freq
    return due * config.updates_at_once


def group_updates(cell: Cell, steps: int) -> int:
    """Gradient updates of all peers of a group in its first ``steps`` environment steps."""
    busiest = gradient_updates(cell.settings, steps // cell.peers)
    if not isinstance(cell.settings, OffPolicyConfig) or "gradient_steps" not in cell.settings.vary:
        return cell.peers * busiest
    each = cell.settings.vary["gradient_steps"]
    return busiest // cell.settings.updates_at_once * sum(map(int, each))


def fresh(cell: Cell) -> int:
    """The number of the final evaluation: that of no evaluation on the way, so that its starts are new."""
    return cell.total_timesteps + 1


def to_json(result: CellResult) -> str:
    """A result as text, every float exact."""
    return json.dumps({"rows": [list(vars(r).values()) for r in result.rows], "provenance": result.provenance})


def from_json(text: str) -> CellResult:
    """What ``to_json`` gave.

    Raises:
        ValueError: the text is something else, or cut short.
    """
    content = parse_json(text)
    return CellResult([Row(*values) for values in content["rows"]], content["provenance"])
