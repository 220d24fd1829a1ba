"""The process of one cell: ``python -m policykd.benchmark.worker FOLDER``, started by the local engine.

Reads ``cell.json``, prints its progress in steps, and writes ``result.json`` or ``failure.txt``. If the driver is gone,
printing fails and ends the worker, so a killed driver leaves no workers behind.
"""

from __future__ import annotations

import json
import os
import sys
import traceback
from pathlib import Path

from policykd.benchmark.cell import run_cell
from policykd.benchmark.rows import to_json
from policykd.benchmark.spec import Cell
from policykd.core import plugins
from policykd.core.errors import type_and_text
from policykd.core.files import write_text
from policykd.core.interrupts import REQUEUE, terminating
from policykd.core.lock import locked

CELL, RESULT, FAILURE = "cell.json", "result.json", "failure.txt"
LOCK_SECONDS = 60


def work(cell: Cell, folder: Path, report: object) -> str:
    """Run a cell under a lock; returns its result as JSON.

    Raises:
        PolicyKDError: another process holds the lock for longer than a minute.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder, timeout=LOCK_SECONDS):
        return to_json(run_cell(cell, folder, report))  # type: ignore[arg-type]


def failure(error: BaseException) -> str:
    """Format an error as one line and its traceback."""
    return f"{type_and_text(error)}\n\n{''.join(traceback.format_exception(error))}"


def main(folder: Path) -> int:
    """Run a folder's cell; returns exit status 0, or 1 with the traceback in ``failure.txt``."""
    lines = os.fdopen(os.dup(sys.stdout.fileno()), "w", buffering=1)
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # prints of libraries go to the log
    try:
        plugins.load_inherited()
        cell = Cell.from_plain(json.loads((folder / CELL).read_text(encoding="utf-8")))
        with terminating():
            write_text(folder / RESULT, work(cell, folder, lambda steps: lines.write(f"{steps}\n")))
    except BrokenPipeError:
        return 1
    except KeyboardInterrupt:
        return REQUEUE
    except Exception as error:
        traceback.print_exc()
        write_text(folder / FAILURE, failure(error))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
