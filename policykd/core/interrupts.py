"""Signals that ask a run to end: Ctrl-C, SIGTERM and SIGHUP are noted, and the run saves and stops where it is safe.

The first signal is noted; the loop looks at it between two steps. Where there is nothing to lose, as in an evaluation,
it raises at once (``Interrupts.raising``). A second signal does what it would have done without us: it ends the process
at once, and files that are written whole or not at all stay whole.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

REQUEUE = 75
"""Exit status after SIGTERM or SIGHUP: run the same command again with --resume (EX_TEMPFAIL of sysexits.h)."""
CTRL_C = 130
"""Exit status after Ctrl-C."""
SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]


class Stopped(KeyboardInterrupt):
    """A signal ended the run.

    Args:
        number: of the signal.
    """

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.status = CTRL_C if number == signal.SIGINT else REQUEUE


class Interrupts:
    """What a loop asks between two steps."""

    def __init__(self) -> None:
        self.number: int | None = None
        """Of the signal that came."""
        self._raises = False

    def check(self) -> None:
        """Raise what came, if something came.

        Raises:
            Stopped: a signal came.
        """
        if self.number is not None:
            raise Stopped(self.number)

    @contextmanager
    def raising(self) -> Iterator[None]:
        """In this block a signal raises ``Stopped`` at once: it may take long, and what it does can be done again."""
        self.check()
        self._raises = True
        try:
            yield
        finally:
            self._raises = False

    def note(self, number: int) -> None:
        """Called by the handler."""
        self.number = number
        if self._raises:
            self.check()


@contextmanager
def interruptible() -> Iterator[Interrupts]:
    """Note the first signal; a second one does what it did before."""
    interrupts = Interrupts()

    def handle(number: int, frame: FrameType | None) -> None:
        _restore(previous)
        interrupts.note(number)

    previous = _handle(SIGNALS, handle)
    try:
        yield interrupts
    finally:
        _restore(previous)


@contextmanager
def terminating() -> Iterator[None]:
    """Let SIGTERM and SIGHUP raise ``Stopped`` in this block, as Ctrl-C raises ``KeyboardInterrupt``."""

    def handle(number: int, frame: FrameType | None) -> None:
        raise Stopped(number)

    previous = _handle([number for number in SIGNALS if number != signal.SIGINT], handle)
    try:
        yield
    finally:
        _restore(previous)


def _handle(numbers: list[int], handler: Any) -> dict[int, Any]:
    """Handle signals; returns what handled them before. One that is ignored stays so: nohup is there to be obeyed.

    A process that is forked meanwhile, such as a worker of Gymnasium's, handles them as before: the run is not its own.
    """
    if threading.current_thread() is not threading.main_thread():
        return {}
    owner, handled = os.getpid(), {number: signal.getsignal(number) for number in numbers}
    previous = {number: before for number, before in handled.items() if before not in (signal.SIG_IGN, None)}

    def handle(number: int, frame: FrameType | None) -> None:
        if os.getpid() == owner:
            handler(number, frame)
        else:
            _restore(previous)
            signal.raise_signal(number)

    for number in previous:
        signal.signal(number, handle)
    return previous


def _restore(previous: dict[int, Any]) -> None:
    for number, handler in previous.items():
        signal.signal(number, handler)
