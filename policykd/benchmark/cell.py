"""Runs one cell, from the start or from its checkpoint: training, final evaluation, provenance."""

from __future__ import annotations

import math
from pathlib import Path

from policykd.benchmark.own_cell import train_ours
from policykd.benchmark.progress import Report
from policykd.benchmark.rows import CellResult
from policykd.benchmark.sb3_cell import train_sb3_seeds
from policykd.benchmark.spec import Cell
from policykd.core.errors import PolicyKDError
from policykd.core.files import versions


def run_cell(cell: Cell, folder: Path, report: Report) -> CellResult:
    """Train a cell, resuming it if possible, and evaluate it.

    Args:
        cell: what to compute.
        folder: the cell's folder for logs and checkpoints, including those of an earlier attempt.
        report: called with the completed steps about once a second.

    Raises:
        PolicyKDError: settings, the task or a file are invalid, or a learner diverged and its returns are NaN.
    """
    train = train_sb3_seeds if cell.is_sb3 else train_ours
    rows, details = train(cell, folder, report)
    if (bad := next((r for r in rows if not math.isfinite(r.mean)), None)) is not None:
        raise PolicyKDError(
            f"benchmark: {cell.name}: seed {bad.seed} has diverged: its actions are not finite at step {bad.steps}; "
            "give the method stable settings, such as a lower learning rate, or leave it out"
        )
    provenance = {"cell": cell.plain(), **details, **versions()}
    return CellResult(rows, provenance)
