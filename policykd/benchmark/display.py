"""Progress display of a benchmark, with an estimate of the remaining time."""

from __future__ import annotations

import time
from collections.abc import Sequence
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn

from policykd.benchmark.engine import Event, Failed, Finished, Progressed, Started
from policykd.benchmark.spec import Cell

QUIET_SECONDS = 60.0
"""Seconds between lines of progress without a terminal."""


class TimeLeft:
    """Estimates the remaining seconds from the time per step, separately for SB3, whose steps cost far more.

    Args:
        missing: cells to run.
        workers: number of cells that run in parallel.
        known: seconds per step of cells finished earlier, by ``Cell.is_sb3``.
    """

    def __init__(self, missing: Sequence[Cell], workers: int, known: dict[bool, float]) -> None:
        self.cells, self.workers, self.known = list(missing), workers, known
        self.steps = {cell.name: 0 for cell in missing}
        self.ended: set[str] = set()
        self.began: dict[str, tuple[float, int]] = {}
        self.measured: dict[bool, list[float]] = {True: [0.0, 0.0], False: [0.0, 0.0]}

    def see(self, event: Event, now: float) -> None:
        """Update the estimate with an event."""
        name = event.cell.name
        if isinstance(event, Progressed):
            before, steps = self.began.get(name, (now, event.steps))
            if event.steps > steps:
                seconds, done = self.measured[event.cell.is_sb3]
                self.measured[event.cell.is_sb3] = [seconds + now - before, done + event.steps - steps]
            self.began[name], self.steps[name] = (now, event.steps), event.steps
        elif not isinstance(event, Started):
            self.ended.add(name)
            self.steps[name] = event.cell.steps

    def _rate(self, is_sb3: bool) -> float | None:
        seconds, steps = self.measured[is_sb3]
        return seconds / steps if steps else self.known.get(is_sb3)

    def left(self) -> float | None:
        """Estimated remaining seconds; None without data."""
        rates = {kind: self._rate(kind) for kind in (True, False)}
        some = [rate for rate in rates.values() if rate is not None]
        if not some:
            return None
        work = [
            (cell.steps - self.steps[cell.name]) * (rates[cell.is_sb3] or max(some))
            for cell in self.cells
            if cell.name not in self.ended
        ]
        return max(sum(work) / max(1, min(self.workers, len(work))), max(work, default=0.0))


class Display:
    """Shows events as they arrive: progress bars on a terminal, lines elsewhere.

    Args:
        total: number of cells in the benchmark.
        done: number of cells finished earlier.
        missing: cells to run.
        workers: number of cells that run in parallel.
        known: see ``TimeLeft``.
    """

    def __init__(self, total: int, done: int, missing: Sequence[Cell], workers: int, known: dict[bool, float]) -> None:
        self.console = Console()
        columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[text]}"))
        self.bars = Progress(*columns, console=self.console, disable=not self.console.is_terminal)
        self.total, self.done, self.failed = total, done, 0
        self.time_left = TimeLeft(missing, workers, known)
        self.all_steps = sum(cell.steps for cell in missing)
        self.tasks: dict[str, TaskID] = {}
        self.last = time.monotonic()

    def __enter__(self) -> Display:
        self.bars.start()
        self.whole = self.bars.add_task("matrix", total=self.all_steps or 1, text=self._text())
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.bars.stop()

    def see(self, event: Event) -> None:
        """Show an event."""
        now, cell = time.monotonic(), event.cell
        self.time_left.see(event, now)
        if isinstance(event, Started):
            if cell.name not in self.tasks:
                self.tasks[cell.name] = self.bars.add_task(f"  {cell.name}", total=cell.steps, text="starting")
        elif isinstance(event, Progressed):
            if cell.name in self.tasks:
                text = f"{event.steps:,} of {cell.steps:,} steps"
                self.bars.update(self.tasks[cell.name], completed=event.steps, text=text)
        else:
            if (task := self.tasks.pop(cell.name, None)) is not None:
                self.bars.remove_task(task)
            self.done += isinstance(event, Finished)
            self.failed += isinstance(event, Failed)
            said = "done" if isinstance(event, Finished) else f"FAILED: {event.text.partition(chr(10))[0]}"
            self.say(f"{cell.name}: {said}   ({self._text()})")
        self.bars.update(self.whole, completed=sum(self.time_left.steps.values()), text=self._text())
        if self.bars.disable and now - self.last > QUIET_SECONDS:
            self.say(self._text())

    def say(self, line: str) -> None:
        """Print a line above the bars."""
        self.last = time.monotonic()
        self.bars.console.print(line, highlight=False, markup=False, soft_wrap=True)

    def _text(self) -> str:
        failed = f", {self.failed} failed" if self.failed else ""
        left = self.time_left.left()
        time_left = f", about {duration(left)} left" if left else ""
        return f"{self.done} of {self.total} cells{failed}{time_left}"


def duration(seconds: float) -> str:
    """Format a duration, rounded as an estimate should be."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"
