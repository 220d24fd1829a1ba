"""Raw results of a cell: one row per evaluation and learner, and their provenance."""

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
"""Phases that form one policy from a group."""


@dataclass(frozen=True)
class Row:
    """One evaluation of one learner, a line of the raw results."""

    backbone: str
    phase: str
    """``curve``: during training. ``final``: after it, on initial states that no other evaluation used. On those same
    states: ``trained``, the peer that did best in training; ``group`` and ``greedy``, the peers acting jointly;
    ``student``, the network that the group was distilled into."""
    seed: int
    learner: int
    """Index of the learner in its group."""
    steps: int
    """Environment steps so far, over all learners of the group."""
    updates: int
    """Gradient updates so far, over all learners of the group."""
    episodes: int
    mean: float
    """Mean undiscounted return of the episodes, acting deterministically."""
    std: float
    """Standard deviation of the returns."""
    seconds: float
    """Training seconds of the process so far: of all our seeds at once, or of one seed of SB3's."""


@dataclass(frozen=True)
class CellResult:
    """Result of a cell."""

    rows: list[Row]
    provenance: dict[str, Any]
    """Cell, versions, commit, machine, networks and seconds."""


def row(
    cell: Cell, phase: str, who: tuple[int, int], steps: int, updates: int, returns: np.ndarray, seconds: float
) -> Row:
    """Row of the learner ``who`` = (seed, index) from its returns ``(n,)``."""
    mean, std = float(returns.mean()), float(returns.std())
    return Row(cell.backbone, phase, *who, steps, updates, len(returns), mean, std, round(seconds, 1))


def gradient_updates(config: Config, steps: int) -> int:
    """Gradient updates in ``steps`` environment steps of a learner, for the one with most updates in its group."""
    if isinstance(config, PPOConfig):
        rollout = config.n_steps * config.n_envs
        return steps // rollout * config.n_epochs * math.ceil(rollout / config.batch_size)
    assert isinstance(config, OffPolicyConfig)
    done, random = (count // config.n_envs for count in (steps, config.learning_starts))  # steps of all at once
    due = done // config.train_freq - min(done, random) // config.train_freq
    return due * config.updates_at_once


def group_updates(cell: Cell, steps: int) -> int:
    """Gradient updates of all peers of a group in its first ``steps`` environment steps."""
    busiest = gradient_updates(cell.settings, steps // cell.peers)
    if not isinstance(cell.settings, OffPolicyConfig) or "gradient_steps" not in cell.settings.vary:
        return cell.peers * busiest
    each = cell.settings.vary["gradient_steps"]
    return busiest // cell.settings.updates_at_once * sum(map(int, each))


def final_evaluation_number(cell: Cell) -> int:
    """Number of the final evaluation, unused during training, so that its initial states are new."""
    return cell.total_timesteps + 1


def to_json(result: CellResult) -> str:
    """Serialise a result, with exact floats."""
    return json.dumps({"rows": [list(vars(r).values()) for r in result.rows], "provenance": result.provenance})


def from_json(text: str) -> CellResult:
    """Parse the output of ``to_json``.

    Raises:
        ValueError: the text is invalid or truncated.
    """
    content = parse_json(text)
    return CellResult([Row(*values) for values in content["rows"]], content["provenance"])
