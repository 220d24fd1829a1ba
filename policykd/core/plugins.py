"""Modules of the user's own that add parts to the tables: named on the command line, never by a file."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Sequence

from policykd.core.errors import PolicyKDError, one_line

VARIABLE = "POLICYKD_PLUGINS"
"""Tells the processes that a command starts which modules it was given."""


def load(names: Sequence[str]) -> None:
    """Import modules from the current folder or wherever Python finds them, here and in processes started later.

    Raises:
        PolicyKDError: a module cannot be imported.
    """
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
    for name in names:
        try:
            importlib.import_module(name)
        except Exception as error:  # a module of the user's own may fail in any way
            raise PolicyKDError(f"plugins: {name} cannot be imported: {one_line(error)}") from None
    if names:
        os.environ[VARIABLE] = ",".join(names)


def load_inherited() -> None:
    """In a process that a command started: the modules that the command was given."""
    load([name for name in os.environ.get(VARIABLE, "").split(",") if name])


def take(arguments: list[str]) -> tuple[list[str], list[str]]:
    """Modules of a leading ``--plugins MODULE[,MODULE]``, and what follows it.

    Raises:
        PolicyKDError: no module is named.
    """
    if not arguments or arguments[0] != "--plugins":
        return [], arguments
    if len(arguments) < 2 or arguments[1].startswith("-"):
        raise PolicyKDError("plugins: name a module: policykd --plugins my_parts train ...")
    return [name for name in arguments[1].split(",") if name], arguments[2:]
