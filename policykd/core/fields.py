"""Settings as fields of dataclasses: how they are changed and checked; every fault is one line."""

from __future__ import annotations

import contextlib
import dataclasses
import types
import typing
from collections.abc import Callable, Mapping
from typing import Any

from policykd.core.errors import PolicyKDError, nearest

D = typing.TypeVar("D")


def require(condition: bool, name: str, value: object, rule: str) -> None:
    """Raise a one-line ``PolicyKDError`` about setting ``name`` unless ``condition`` holds."""
    if not condition:
        raise PolicyKDError(f"config: {name}={value!r} {rule}")


def change(config: D, changes: Mapping[str, Any]) -> D:
    """A copy of a dataclass with some fields changed; unknown names and values of the wrong type are errors."""
    hints = typing.get_type_hints(type(config))
    values = {}
    for name, value in changes.items():
        if name not in hints:
            raise PolicyKDError(f"config: unknown key {name!r} for {type(config).__name__}{nearest(name, hints)}")
        values[name] = _checked(name, value, hints[name])
    return dataclasses.replace(config, **values)  # type: ignore[type-var]


def build(kind: type[D], values: Mapping[str, Any]) -> D:
    """A dataclass from values by field name, each of the type that the field has; unknown and missing are errors."""
    hints = typing.get_type_hints(kind)
    for name in values:
        if name not in hints:
            raise PolicyKDError(f"config: unknown key {name!r}{nearest(str(name), hints)}")
    for field in dataclasses.fields(kind):  # type: ignore[arg-type]
        optional = field.default is not dataclasses.MISSING or field.default_factory is not dataclasses.MISSING
        if field.name not in values and not optional:
            raise PolicyKDError(f"config: key {field.name!r} is missing")
    return kind(**{name: _checked(name, value, hints[name]) for name, value in values.items()})


def _checked(name: str, value: Any, hint: Any) -> Any:
    """``value`` as type ``hint`` wants it (an int for a float and a list for a tuple are fine), or an error."""
    origin, choices = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Literal:
        fits = value in choices
    elif origin is tuple:
        fits = isinstance(value, list | tuple) and all(type(item) is choices[0] for item in value)
        value = tuple(value) if fits else value
    elif origin is dict:
        fits = isinstance(value, dict)
    elif origin in (types.UnionType, typing.Union):
        for choice in choices:
            with contextlib.suppress(PolicyKDError):
                return _checked(name, value, choice)
        fits = False
    elif origin is Callable or hint is Callable:
        fits = callable(value)
    elif hint is float:
        fits = isinstance(value, float | int) and not isinstance(value, bool)
        value = float(value) if fits else value
    else:
        fits = type(value) is hint
    shown = hint.__name__ if isinstance(hint, type) and origin is None else str(hint).replace("typing.", "")
    require(fits, name, value, f"must be {shown}")
    return value
