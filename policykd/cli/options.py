"""Parses command lines into options; errors are one line, as everywhere."""

from __future__ import annotations

import argparse
import contextlib
import io
import re
import sys
from collections.abc import Sequence
from typing import TypeVar

import tyro

from policykd.cli.numbers import REGISTRY
from policykd.core.errors import PolicyKDError
from policykd.distillation.supervised.config import CONFIGS
from policykd.distillation.supervised.training_config import TrainingConfig

T = TypeVar("T")
METHODS = "policykd.distillation.supervised.methods"
"""Module of the methods table, which needs torch."""


def parse(kind: type[T], arguments: Sequence[str], command: str, default: T | None = None) -> T:
    """Parse the options of a command.

    Args:
        kind: dataclass of the options.
        arguments: the words after the command.
        command: its name, for help and errors.
        default: default options; None takes those of the dataclass.

    Raises:
        PolicyKDError: a word is unknown, missing or of another type.
    """
    start = {} if default is None else {"default": default}
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            about = getattr(kind, "__origin__", kind).__doc__
            words = list(arguments)
            return tyro.cli(kind, args=words, prog=f"policykd {command}", description=about, registry=REGISTRY, **start)  # type: ignore[call-overload]
    except SystemExit as left:
        if not left.code:  # --help
            raise
        raise PolicyKDError(_one_line(said.getvalue(), command)) from None


def peek(arguments: Sequence[str], *names: str) -> dict[str, str | None]:
    """The values of flags that decide which other flags exist; None for a flag that is not given.

    Raises:
        PolicyKDError: a flag has no value.
    """
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    for name in names:
        first.add_argument(*dict.fromkeys((f"--{name}", f"--{name.replace('-', '_')}")))
    try:
        return vars(first.parse_known_args(list(arguments))[0])
    except argparse.ArgumentError as error:
        raise PolicyKDError(f"command line: {error}") from None


def method_settings(arguments: Sequence[str], default: str) -> tuple[str, type[TrainingConfig]]:
    """The supervised method that a command line names, and the dataclass of its settings.

    Raises:
        PolicyKDError: there is no such method.
    """
    name = peek(arguments, "method")["method"] or default
    if name in CONFIGS and METHODS not in sys.modules:  # a plugin may have put another there
        return name, CONFIGS[name]
    from policykd.distillation.supervised import find_method  # imports torch: a plugin's method, or unknown

    return name, find_method(name)[1].config_type


def widths(text: str) -> tuple[int, ...]:
    """``"64x64"`` as hidden layers.

    Raises:
        PolicyKDError: it is something else.
    """
    parts = text.lower().split("x")
    if not all(part.isdecimal() and int(part) > 0 for part in parts):
        raise PolicyKDError(f"student: {text!r} is not a list of widths; write 64x64, or 32 for one hidden layer")
    return tuple(int(part) for part in parts)


def _one_line(box: str, command: str) -> str:
    """Tyro's boxed error message as one line."""
    lines = [line.strip(" │") for line in box.splitlines() if not line.startswith(("╭", "╰"))]
    parts = re.split(r"\n[─-]{3,}\n", "\n".join(lines))
    if not box.startswith("╭"):  # without box characters in the terminal's encoding, the title is a separate part
        parts = parts[1:] or parts
    said = " ".join(parts[0].split()).removeprefix("Error parsing config: ")
    # For a setting of several types tyro lists Python's error of each.
    several = r"no type matching (\S+) could be instantiated from \['(.*?)'\]\. Got errors: .*"
    said = re.sub(several, r"'\2' is no \1", said)
    near = re.findall(r"^--[\w-]+", parts[1], re.MULTILINE) if len(parts) > 1 and "Perhaps" in parts[1] else []
    return f"{said}{'; nearest: ' + ', '.join(dict.fromkeys(near)) if near else ''} (policykd {command} --help)"
