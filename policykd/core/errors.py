"""The one kind of error that a user can cause and mend: its text is one line that says what, where and what to do."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class PolicyKDError(ValueError):
    """Bad input or a failed run, told in one line. The command line prints it and exits with 2."""


def nearest(name: str, known: Iterable[str]) -> str:
    """The names of ``known`` most like ``name``, as the end of an error line (empty if none is near)."""
    close = difflib.get_close_matches(str(name), list(known), n=3, cutoff=0.4)
    return f"; nearest: {', '.join(close)}" if close else ""


def one_line(error: BaseException) -> str:
    """The first line of an error's text, or its name."""
    return str(error).partition("\n")[0] or type(error).__name__
