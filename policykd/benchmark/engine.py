"""Events by which engines report on the cells they run, here or on other machines."""

from __future__ import annotations

from dataclasses import dataclass

from policykd.benchmark.rows import CellResult
from policykd.benchmark.spec import Cell

ATTEMPTS = 3
"""Attempts at a cell whose worker dies. A cell that raises an error is not retried, since it would raise again."""


@dataclass(frozen=True)
class Started:
    """A worker has started a cell."""

    cell: Cell


@dataclass(frozen=True)
class Progressed:
    """A cell has made progress."""

    cell: Cell
    steps: int


@dataclass(frozen=True)
class Finished:
    """A cell has finished."""

    cell: Cell
    result: CellResult


@dataclass(frozen=True)
class Failed:
    """A cell has failed."""

    cell: Cell
    text: str
    """One line with the reason, followed by the traceback if there is one."""


Event = Started | Progressed | Finished | Failed
