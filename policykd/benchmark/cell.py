"""One cell, from the start or where it was stopped: train, evaluate from new initial states, say how it was made."""

from __future__ import annotations

from pathlib import Path

from policykd.benchmark.own_cell import train_ours
from policykd.benchmark.progress import Report
from policykd.benchmark.rows import CellResult
from policykd.benchmark.sb3_cell import train_sb3_seeds
from policykd.benchmark.spec import Cell
from policykd.core.files import CHECKPOINT, versions


def run_cell(cell: Cell, folder: Path, report: Report) -> CellResult:
    """Train a cell, or go on with it, and evaluate it.

    Args:
        cell: what to compute.
        folder: the cell's own folder for logs and checkpoints; what an earlier attempt left there is used.
        report: told the steps so far about once a second.

    Raises:
        PolicyKDError: settings, the task or a file cannot work.
    """
    train = train_sb3_seeds if cell.by_sb3 else train_ours
    rows, details = train(cell, folder, report)
    provenance = {"cell": cell.plain(), **details, **versions()}
    return CellResult(rows, provenance)


def tidy(folder: Path) -> None:
    """Drop what only served to go on: a finished cell's replay can take hundreds of megabytes."""
    (folder / "run" / CHECKPOINT).unlink(missing_ok=True)
