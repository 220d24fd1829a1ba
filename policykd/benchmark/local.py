"""The local engine: one process per cell, with at most as many threads in total as cores."""

from __future__ import annotations

import json
import os
import queue
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from policykd.benchmark.engine import ATTEMPTS, Event, Failed, Finished, Progressed, Started
from policykd.benchmark.rows import from_json
from policykd.benchmark.sb3_cell import name_cell
from policykd.benchmark.spec import Cell
from policykd.benchmark.worker import CELL, FAILURE, RESULT
from policykd.core.errors import PolicyKDError
from policykd.core.files import write_text
from policykd.native.threads import VARIABLE, cores

ONE_THREAD = {name: "1" for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")}
STOP_SECONDS = 60
"""Seconds a worker has to save its checkpoint after Ctrl-C."""


def check_jobs(jobs: int | None, threads: int = 1) -> int:
    """Number of parallel processes; None is as many as the cores allow.

    Raises:
        PolicyKDError: there would be more threads than cores.
    """
    if not 1 <= threads <= cores():
        raise PolicyKDError(f"benchmark: --threads {threads} must be from 1 to the {cores()} cores of this machine")
    most = cores() // threads
    if jobs is not None and not 1 <= jobs <= most:
        where = f"the {most} cores of this machine" if threads == 1 else f"{most}, for --threads {threads} each"
        raise PolicyKDError(f"benchmark: --jobs {jobs} must be from 1 to {where}")
    return jobs or most


def run(cells: Sequence[Cell], work: Path, jobs: int | None, threads: int = 1) -> Iterator[Event]:
    """Run cells, and yield events.

    Args:
        cells: cells, in the order in which they start.
        work: folder of their logs and checkpoints, from which interrupted cells resume.
        jobs: number of parallel processes; None is as many as the cores allow.
        threads: threads of each process for the native kernels of our learners; results do not depend on it.

    Raises:
        PolicyKDError: there would be more threads than cores.
    """
    jobs = check_jobs(jobs, threads)
    waiting, running = deque((cell, 1) for cell in cells), dict[str, _Worker]()
    events: queue.Queue[Event | _Died] = queue.Queue()
    try:
        while waiting or running:
            while waiting and len(running) < jobs:
                cell, attempt = waiting.popleft()
                try:
                    running[cell.name] = _Worker(cell, attempt, work / cell.name, events, threads)
                    yield Started(cell)
                except OSError as error:  # a full disk
                    yield Failed(cell, f"cannot start {cell.name}: {error}")
            if not running:
                continue
            event = events.get()
            if not isinstance(event, Progressed):
                running.pop(event.cell.name)
            if isinstance(event, _Died):
                if event.attempt < ATTEMPTS:
                    waiting.appendleft((event.cell, event.attempt + 1))
                    continue
                event = Failed(event.cell, event.text)
            yield event
    finally:
        for worker in running.values():
            worker.interrupt()
        for worker in running.values():
            worker.stop()


@dataclass(frozen=True)
class _Died:
    """A worker ended without a word, as when it is killed."""

    cell: Cell
    text: str
    attempt: int


class _Worker:
    """The process of a cell, and the thread that reads what it prints."""

    def __init__(
        self, cell: Cell, attempt: int, folder: Path, events: queue.Queue[Event | _Died], threads: int
    ) -> None:
        self.cell, self.attempt, self.folder, self.events = cell, attempt, folder, events
        folder.mkdir(parents=True, exist_ok=True)
        for name in (RESULT, FAILURE):
            (folder / name).unlink(missing_ok=True)
        with suppress(OSError, ValueError):
            name_cell(folder, json.loads((folder / CELL).read_text(encoding="utf-8")))
        write_text(folder / CELL, json.dumps(cell.plain()))
        with open(folder / "log.txt", "ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "policykd.benchmark.worker", str(folder)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env={**os.environ, **ONE_THREAD, VARIABLE: str(threads)},
                start_new_session=True,  # Ctrl-C reaches the driver alone, which passes it on once
            )
        self.thread = threading.Thread(target=self._watch, daemon=True)
        self.thread.start()

    def interrupt(self) -> None:
        """Ask it to save and end; not as Ctrl-C does, to which the children of a shell's & are deaf."""
        if self.process.poll() is None:
            self.process.terminate()

    def stop(self) -> None:
        """Wait for its end; after a minute, force it."""
        try:
            self.process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def _watch(self) -> None:
        assert self.process.stdout is not None
        with self.process.stdout as lines:
            for line in lines:
                if line.strip().isdigit():
                    self.events.put(Progressed(self.cell, int(line)))
        self.events.put(self._outcome(self.process.wait()))

    def _outcome(self, status: int) -> Event | _Died:
        try:
            if status == 0:
                return Finished(self.cell, from_json((self.folder / RESULT).read_text(encoding="utf-8")))
            if (self.folder / FAILURE).exists():
                return Failed(self.cell, (self.folder / FAILURE).read_text(encoding="utf-8"))
        except (OSError, ValueError, KeyError, TypeError) as error:
            return Failed(self.cell, f"cannot read the result of {self.cell.name}: {error}")
        how = f"killed by signal {-status}" if status < 0 else f"ended with status {status}"
        log = b""
        with suppress(OSError):  # its folder may be gone
            log = (self.folder / "log.txt").read_bytes()[-2000:]
        text = f"its process was {how}, {self.attempt} times\n\n{log.decode(errors='replace')}"
        return _Died(self.cell, text, self.attempt)
