"""Settings as dataclass fields: changing and validating them, with one-line errors."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from policykd.core.errors import PolicyKDError, nearest, reraise

D = typing.TypeVar("D")
LARGEST = float(np.finfo(np.float32).max)
"""The largest float32: a greater setting would be infinite in the networks."""
LINEAR = "lin_"
"""Prefix of SB3 zoo's values that decay linearly to 0."""


def require(condition: bool, name: str, value: object, rule: str) -> None:
    """Raise a one-line ``PolicyKDError`` about setting ``name`` unless ``condition`` holds."""
    if not condition:
        raise PolicyKDError(f"config: {name}={value!r:.200} {rule}")


def positive(settings: object, *names: str) -> None:
    """Refuse settings that are not positive; a function of a run's progress is tried once."""
    for name in names:
        value = initial_value(getattr(settings, name))
        require(callable(value) or value > 0, name, value, "must be positive")
        check_schedule(name, value)


def check_schedule(name: str, schedule: Any) -> None:
    """Try a function of a run's progress at its midpoint (runs never call it at the ends); ignore anything else.

    Raises:
        PolicyKDError: it fails, or does not return a number of at least 0.
    """
    if callable(schedule):
        with reraise(f"config: {name}={schedule!r} fails at 0.5 (", ")"):
            value_at(name, schedule, 0.5)


def not_negative(settings: object, *names: str) -> None:
    """Refuse negative settings."""
    for name in names:
        require(getattr(settings, name) >= 0, name, getattr(settings, name), "must not be negative")


def fractions(settings: object, *names: str) -> None:
    """Refuse settings outside [0, 1]."""
    for name in names:
        require(0 <= getattr(settings, name) <= 1, name, getattr(settings, name), "must lie in [0, 1]")


def change(config: D, changes: Mapping[str, Any]) -> D:
    """Copy a dataclass with changed fields; unknown names and values of the wrong type are errors.

    ``"lin_3e-4"``, SB3 zoo's notation for a linear decay to 0, sets ``<name>`` and ``<name>_schedule``.
    """
    hints = typing.get_type_hints(type(config))
    for name in changes:
        if name not in hints:
            elsewhere = getattr(config, "ADVICE", {}).get(name)
            advice = f"; {elsewhere}" if elsewhere else nearest(name, hints)
            raise PolicyKDError(f"config: unknown key {name!r} for {type(config).__name__}{advice}")
    return dataclasses.replace(config, **_as_declared(config, changes, hints))  # type: ignore[type-var]


def read_fields(settings: object) -> None:
    """Convert every field as ``change`` does, for settings made in a program.

    Raises:
        PolicyKDError: a value does not have its field's type.
    """
    for name, value in _as_declared(settings, vars(settings), typing.get_type_hints(type(settings))).items():
        object.__setattr__(settings, name, value)  # they are frozen


def _as_declared(config: object, given: Mapping[str, Any], hints: Mapping[str, Any]) -> dict[str, Any]:
    """Convert values to their fields' types."""
    values: dict[str, Any] = {}
    falling: dict[str, Any] = {}
    for name, value in given.items():
        if (read := getattr(config, "CONVERTERS", {}).get(name)) is not None:
            value = read(value)
        if isinstance(value, str) and value.startswith(LINEAR) and _is_number(hints[name]):
            falling |= _linear(name, value, hints, config)
        else:
            values[name] = as_type(name, value, hints[name])
    return values | falling  # a value's schedule overrides the field's default


def parse_int(text: str) -> int:
    """Parse an integer from the command line, such as ``1e6``.

    Raises:
        ValueError: it is not an integer.
    """
    try:
        return int(text)
    except ValueError:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not value.is_integer():  # also False for infinity and NaN
            raise
        return int(value)


def as_int(value: object) -> int | None:
    """Convert a whole number such as 2, 2.0 or NumPy's to int; None for anything else."""
    with contextlib.suppress(PolicyKDError):
        return int(as_type("value", value, int))
    return None


class Linear:
    """Linear decay from ``start`` to 0, as a function of the remaining progress from 1 to 0.

    Args:
        text: ``"lin_3e-4"``, in SB3 zoo's notation, or only the number.

    Raises:
        ValueError: the rest of the text is not a number.
    """

    def __init__(self, text: str) -> None:
        self.start = float(text.removeprefix(LINEAR))

    def __call__(self, remaining: float) -> float:
        """The value at this remaining progress."""
        return self.start * remaining

    def __repr__(self) -> str:
        return f"{LINEAR}{self.start:g}"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Linear) and other.start == self.start

    def __hash__(self) -> int:
        return hash(self.start)


def initial_value(value: Any) -> Any:
    """The initial value of a linear decay; any other setting unchanged."""
    return value.start if isinstance(value, Linear) else value


def value_at(name: str, function: Callable[[float], Any], point: float) -> float:
    """Evaluate a user's function for setting ``name`` at a point of the run.

    Raises:
        PolicyKDError: the result is not a finite number of at least 0.
    """
    given = function(point)
    try:
        value = math.nan if isinstance(given, str) else float(given)
    except (TypeError, ValueError):
        value = math.nan
    if not -1e-12 <= value < math.inf:  # a decay to 0 may end slightly below by rounding
        raise PolicyKDError(f"config: {name}({point:g}) returned {given!r}, but must return a finite number >= 0")
    return max(0.0, value)


def split_linear(words: Sequence[str], kind: type) -> list[str]:
    """Rewrite ``--x lin_0.2`` on a command line as ``--x 0.2 --x-schedule linear`` if ``kind`` has such a field."""
    hints = typing.get_type_hints(kind)
    result: list[str] = []
    for word in words:
        flag, _, value = word.partition("=")
        if not value and result:
            flag, value = result[-1], word
        name = flag.removeprefix("--").replace("-", "_")
        if not value.startswith(LINEAR) or not _has_schedule(name, hints):
            result.append(word)
            continue
        if value != word:
            result.append(flag)
        result += [value.removeprefix(LINEAR), f"{flag}-schedule", "linear"]
    return result


def _is_number(hint: Any) -> bool:
    """Whether a field takes a number; in others "lin_vel" may be a name."""
    return not {int, float}.isdisjoint((hint, *typing.get_args(hint)))


def _has_schedule(name: str, hints: Mapping[str, Any]) -> bool:
    return "linear" in typing.get_args(hints.get(f"{name}_schedule"))


def _linear(name: str, value: str, hints: Mapping[str, Any], config: object) -> dict[str, Any]:
    """Fields set by ``name="lin_..."``: the number and its schedule, or a function."""
    try:
        falling = Linear(value)
    except ValueError:
        raise PolicyKDError(f"config: {name}={value!r} must be {LINEAR} and a number") from None
    if _has_schedule(name, hints):
        return {name: falling.start, f"{name}_schedule": "linear"}
    with contextlib.suppress(PolicyKDError):
        return {name: as_type(name, falling, hints[name])}
    rule = f"falls over the run, and {type(config).__name__} has no schedule for {name}: give a number"
    raise PolicyKDError(f"config: {name}={value!r} {rule}")


def build(kind: type[D], values: Mapping[str, Any]) -> D:
    """Build a dataclass from values by field name; unknown, missing and wrongly typed fields are errors."""
    hints = typing.get_type_hints(kind)
    for name in values:
        if name not in hints:
            raise PolicyKDError(f"config: unknown key {name!r}{nearest(str(name), hints)}")
    for field in dataclasses.fields(kind):  # type: ignore[arg-type]
        optional = field.default is not dataclasses.MISSING or field.default_factory is not dataclasses.MISSING
        if field.name not in values and not optional:
            raise PolicyKDError(f"config: key {field.name!r} is missing")
    return kind(**{name: as_type(name, value, hints[name]) for name, value in values.items()})


def _plain(value: Any) -> Any:
    """Convert NumPy's numbers and arrays to Python's, also inside lists."""
    if isinstance(value, np.generic | np.ndarray):
        return value.tolist()
    return type(value)(map(_plain, value)) if type(value) in (list, tuple) else value


def as_type(name: str, value: Any, hint: Any) -> Any:
    """Convert the value of setting ``name`` to type ``hint``, or raise a one-line ``PolicyKDError``.

    NumPy's numbers count as numbers, an int is accepted for a float, ``1e6`` for an int and a list for a tuple.
    """
    value = value.item() if isinstance(value, np.generic) else value
    origin, choices = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Literal:
        fits = value in choices
    elif origin is tuple:
        if isinstance(value, list | tuple):
            with contextlib.suppress(PolicyKDError):
                return tuple(as_type(name, item, choices[0]) for item in value)
        fits = False
    elif origin is dict:
        if isinstance(value, dict) and typing.get_origin(choices[1]) is tuple:
            return {str(key): as_type(name, item, choices[1]) for key, item in value.items()}
        fits = isinstance(value, dict)
        value = {key: _plain(item) for key, item in value.items()} if fits else value
    elif origin in (types.UnionType, typing.Union):
        for choice in choices:
            with contextlib.suppress(PolicyKDError):
                return as_type(name, value, choice)
        fits = False
    elif origin is Callable or hint is Callable:
        fits = callable(value)
    elif hint is float:
        fits = isinstance(value, float | int) and not isinstance(value, bool)
        with contextlib.suppress(OverflowError):  # an int of over 308 digits stays an int and is refused
            value = float(value) if fits else value
        fits = isinstance(value, float)
        require(not fits or not LARGEST < abs(value) < math.inf, name, value, "is more than float32 holds")
    elif hint is int and type(value) is float and value.is_integer():
        fits, value = True, int(value)
    else:
        fits = type(value) is hint
    shown = hint.__name__ if isinstance(hint, type) and origin is None else str(hint).replace("typing.", "")
    shown = shown.replace("collections.abc.Callable[..., Any]", "function")
    require(fits, name, value, f"must be {shown}")
    return value
