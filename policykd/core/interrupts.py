"""Graceful handling of Ctrl-C, SIGTERM and SIGHUP: the run saves and stops at the next safe point.

The first signal is recorded, and the loop checks for it between steps. If nothing can be lost, as in an evaluation, it
raises immediately (``Interrupts.raising``). A second signal has its default effect and ends the process at once; files
are written atomically and stay intact.
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
        number: signal number.
    """

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.status = CTRL_C if number == signal.SIGINT else REQUEUE


class Interrupts:
    """Signals received, which loops check between steps."""

    def __init__(self) -> None:
        self.number: int | None = None
        """Number of the signal received, if any."""
        self._raises = False

    def check(self) -> None:
        """Raise if a signal was received.

        Raises:
            Stopped: a signal was received.
        """
        if self.number is not None:
            raise Stopped(self.number)

    @contextmanager
    def raising(self) -> Iterator[None]:
        """Let signals raise ``Stopped`` immediately in a block that may take long and can be repeated."""
        self.check()
        self._raises = True
        try:
            yield
        finally:
            self._raises = False

    def note(self, number: int) -> None:
        """Record a signal; called by the handler."""
        self.number = number
        if self._raises:
            self.check()


@contextmanager
def interruptible() -> Iterator[Interrupts]:
    """Record the first signal; a second one has its previous effect."""
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
    """Install a handler; returns the previous ones. Ignored signals stay ignored, as under nohup.

    Processes forked meanwhile, such as Gymnasium's workers, use the previous handlers.
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
