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
        PolicyKDError: a module cannot be imported, or the current folder was deleted.
    """
    try:
        here = os.getcwd()
    except FileNotFoundError:
        raise PolicyKDError("current folder: it was deleted: change to another one") from None
    if here not in sys.path:  # last: --env my_env:MyTask-v0 finds my_env.py here, too, and nothing else changes
        sys.path.append(here)
    for name in names:
        try:
            importlib.import_module(name)
        except SystemExit:  # a program that ends itself
            raise PolicyKDError(f"plugins: {name} calls sys.exit where it is imported: it must not") from None
        except Exception as error:  # a module of the user's own may fail in any way
            raise PolicyKDError(f"plugins: {name} cannot be imported: {one_line(error)}") from None
    if names:
        os.environ[VARIABLE] = ",".join(names)


def command(words: str) -> str:
    """A command to type next, with the modules that this one was given: its results may name their parts."""
    names = os.environ.get(VARIABLE, "")
    return f"policykd --plugins {names} {words}" if names else f"policykd {words}"


def load_inherited() -> None:
    """In a process that a command started: the modules that the command was given."""
    load(names_in(os.environ.get(VARIABLE, "")))


def names_in(text: str) -> list[str]:
    """The modules of ``MODULE[,MODULE]``."""
    return [name for name in text.split(",") if name]


def take(arguments: list[str]) -> tuple[list[str], list[str]]:
    """Modules of a leading ``--plugins MODULE[,MODULE]`` or ``--plugins=MODULE``, and what follows it.

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
