"""How far a run is: a live bar on a terminal, and where there is none, such as in a log file, a line now and then."""

from __future__ import annotations

import sys
import time
from types import TracebackType

from tqdm import tqdm

FIRST, EVERY = 10.0, 60.0
"""Seconds until the first line, and between lines."""


def make_bar(end: int, start: int, shown: bool, unit: str = "steps") -> tqdm | ProgressLines:
    """What shows a run from step ``start`` to ``end``.

    Args:
        end: steps of a group when the run is over.
        start: steps that it has already.
        shown: False shows nothing.
        unit: what is counted.
    """
    if shown and not sys.stderr.isatty():
        return ProgressLines(end, start, unit)
    return tqdm(total=end, initial=start, unit=f" {unit}", smoothing=0.05, disable=not shown)


class ProgressLines:
    """As much of ``tqdm`` as the training loop uses, printing whole lines.

    Args:
        end: steps of a group when the run is over.
        start: steps that it has already.
        unit: what is counted.
    """

    def __init__(self, end: int, start: int, unit: str = "steps") -> None:
        self.end, self.start, self.steps, self.unit, self.latest = end, start, start, unit, ""
        self.began = time.monotonic()
        self.due = self.began + FIRST

    def __enter__(self) -> ProgressLines:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        return None

    def update(self, steps: int) -> None:
        """Count ``steps`` more, and print a line where it is time."""
        self.steps += steps
        now = time.monotonic()
        if now < self.due:
            return
        self.due = now + EVERY
        speed = (self.steps - self.start) / max(now - self.began, 1e-9)
        left = max(0, self.end - self.steps) / max(speed, 1e-9)  # the last step may go beyond the end
        print(
            f"{self.steps:,} of {self.end:,} {self.unit} ({self.steps / self.end:.0%}), {speed:,.0f} {self.unit}/s, "
            f"{left / 60:,.0f} min left{self.latest}",
            flush=True,
        )

    def set_postfix_str(self, text: str, refresh: bool = False) -> None:
        """Remember what the next line ends with."""
        self.latest = f", {text}"
