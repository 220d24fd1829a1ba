"""User modules that register parts in the tables: named on the command line, never by a file."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Sequence

from policykd.core.errors import PolicyKDError, one_line

VARIABLE = "POLICYKD_PLUGINS"
"""Environment variable that passes a command's plugins to the processes it starts."""


def load(names: Sequence[str]) -> None:
    """Import modules from the current folder or wherever Python finds them, here and in processes started later.

    Raises:
        PolicyKDError: a module cannot be imported, or the current folder was deleted.
    """
    try:
        here = os.getcwd()
    except FileNotFoundError:
        raise PolicyKDError("current folder: it was deleted: change to another one") from None
    if here not in sys.path:  # last, so that --env my_env:MyTask-v0 finds my_env.py and nothing else changes
        sys.path.append(here)
    for name in names:
        try:
            importlib.import_module(name)
        except SystemExit:  # a script that exits on import
            raise PolicyKDError(f"plugins: {name} calls sys.exit when imported, which it must not") from None
        except Exception as error:  # a user's module may raise anything
            raise PolicyKDError(f"plugins: {name} cannot be imported: {one_line(error)}") from None
    if names:
        os.environ[VARIABLE] = ",".join(names)


def command(words: str) -> str:
    """Add this command's plugins to a suggested command, whose input may refer to their parts."""
    names = os.environ.get(VARIABLE, "")
    return f"policykd --plugins {names} {words}" if names else f"policykd {words}"


def load_inherited() -> None:
    """Load the plugins of the command that started this process."""
    load(names_in(os.environ.get(VARIABLE, "")))


def names_in(text: str) -> list[str]:
    """Split ``MODULE[,MODULE]``."""
    return [name for name in text.split(",") if name]


def take(arguments: list[str]) -> tuple[list[str], list[str]]:
    """Parse a leading ``--plugins MODULE[,MODULE]`` or ``--plugins=MODULE``; returns modules and remaining arguments.

    Raises:
        PolicyKDError: no module is named.
    """
    flag, separate, text = arguments[0].partition("=") if arguments else ("", "", "")
    if flag != "--plugins":
        return [], arguments
    rest = arguments[1:]
    if not separate and rest and not rest[0].startswith("-"):
        text, *rest = rest
    if not (names := names_in(text)):
        raise PolicyKDError("plugins: name a module: policykd --plugins my_parts train ...")
    return names, rest
