"""What engines do with cells, in their own process or on another machine, and what they tell."""

from __future__ import annotations

from dataclasses import dataclass

from policykd.benchmark.rows import CellResult
from policykd.benchmark.spec import Cell

ATTEMPTS = 3
"""How often a cell is begun whose worker dies. One that raises an error is not tried again: it would raise again."""


@dataclass(frozen=True)
class Started:
    """A worker works on a cell."""

    cell: Cell


@dataclass(frozen=True)
class Progressed:
    """A cell has come so far."""

    cell: Cell
    steps: int


@dataclass(frozen=True)
class Finished:
    """A cell is finished."""

    cell: Cell
    result: CellResult


@dataclass(frozen=True)
class Failed:
    """A cell could not be made."""

    cell: Cell
    text: str
    """A line on why and, where there is one, the traceback."""


Event = Started | Progressed | Finished | Failed
