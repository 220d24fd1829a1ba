"""The error for mistakes that a user can fix: one line that says what is wrong, where, and what to do."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

LINE_BREAK = re.compile(r"\s*\n\s*")


class PolicyKDError(ValueError):
    """Bad input or a failed run, with a one-line message. The command line prints it and exits with status 2."""

    def __init__(self, text: str) -> None:
        super().__init__(LINE_BREAK.sub(" ", text))  # a value or another library's words in it may have several lines


def nearest(name: str, known: Iterable[str]) -> str:
    """End of an error line with the names in ``known`` most similar to ``name``, ignoring case; empty if none is."""
    folded = {one.casefold(): one for one in known}
    close = [folded[one] for one in difflib.get_close_matches(str(name).casefold(), folded, n=3, cutoff=0.4)]
    return f"; nearest: {', '.join(close)}" if close else ""


def plural(number: int, what: str) -> str:
    """Number and noun: "1 seed", "2 seeds"."""
    return f"{number:,} {what}" + "s" * (number != 1)


def differences(was: Mapping[str, Any], now: Mapping[str, Any], names: Iterable[str]) -> str:
    """Describe which of ``names`` have changed, with both values; empty if none has."""
    changed = (name for name in names if was.get(name) != now.get(name))
    return "; ".join(f"{name} was {was.get(name)!r}, now {now.get(name)!r}" for name in changed)


def one_line(error: BaseException, most: int = 300) -> str:
    """The first line of an error's text, truncated to ``most`` characters; its class name if it has no text."""
    return str(error).strip().partition("\n")[0][:most] or type(error).__name__


def type_and_text(error: BaseException) -> str:
    """An error's class name and the first line of its text."""
    return type(error).__name__ if not str(error).strip() else f"{type(error).__name__}: {one_line(error)}"


@contextmanager
def reraise(before: str, after: str = "", text: Callable[[BaseException], str] = type_and_text) -> Iterator[None]:
    """Re-raise any error of the block, as by a user's code or a damaged file, in one line: before, error, after."""
    try:
        yield
    except PolicyKDError:
        raise
    except Exception as error:  # both may raise anything
        raise PolicyKDError(f"{before}{text(error)}{after}") from error
