"""Lookup of parts by name or object: every table of named parts is a dict that users may extend."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Mapping
from typing import Any, TypeVar

from tyro.constructors import PrimitiveConstructorSpec

from policykd.core.errors import PolicyKDError, nearest
from policykd.core.fields import LINEAR, Linear, as_type

T = TypeVar("T")
OWN = "own:"
"""Prefix of the saved name of a part that is in no table."""


def find(what: str, part: Any, table: Mapping[str, T], kind: type | tuple[type, ...] | None = None) -> T:
    """Look up a part by name; an object is returned as it is.

    Args:
        what: name of the setting in errors.
        part: a key of ``table``, or an object like its values.
        table: the known parts.
        kind: required type of an object, or base class if the table holds classes; None accepts any callable.

    Raises:
        PolicyKDError: the name is unknown, or the object has the wrong type.
    """
    if isinstance(part, str):
        if part.startswith(OWN):
            raise PolicyKDError(f"{what}: {part.removeprefix(OWN)} is a custom part: pass it as {what}=")
        if part not in table:
            known = f"there are {', '.join(table)}" if table else "none is known by name: pass an object"
            own = "if a module of yours adds it, use policykd --plugins MODULE"
            raise PolicyKDError(f"{what}: {part!r} is unknown{nearest(part, table)}; {known}; {own}")
        return table[part]
    if kind is None:
        fits = callable(part)
    elif _of_classes(table):
        fits = isinstance(part, type) and issubclass(part, kind)
    else:
        fits = isinstance(part, kind)
    if not fits:
        raise PolicyKDError(f"{what}: must be one of {', '.join(table)} or {_shown(kind, table)}, not {part!r}")
    return part


def check_row(row: Any, kind: type) -> None:
    """Refuse a table row with a value outside the choices of its field in the dataclass ``kind``.

    Raises:
        PolicyKDError: a value is not a choice; the error names row, field, choices and the nearest one.
    """
    for column, hint in typing.get_type_hints(kind).items():
        value, kinds = getattr(row, column), (hint, *typing.get_args(hint))
        if hint in (bool, str):
            as_type(column, value, hint)
        for literal in (kind for kind in kinds if typing.get_origin(kind) is typing.Literal):
            choices = [*typing.get_args(literal), *((None,) if type(None) in kinds else ())]
            if value not in choices:
                known = [str(choice) for choice in choices]
                close = f"{nearest(str(value), known)}; there are {', '.join(known)}"
                raise PolicyKDError(f"method {row.name}: {column}={value!r} is unknown{close}")


def rows(*parts: Any) -> dict[str, Any]:
    """Make a table of parts by their ``name``."""
    return {part.name: part for part in parts}


def name_of(part: Any, table: Mapping[str, Any]) -> str:
    """The name under which a part is saved: its key, or "own:" and its own name."""
    if isinstance(part, str):
        return part
    for name, known in table.items():
        if known is part:
            return name
    return OWN + str(getattr(part, "name", None) or getattr(part, "__name__", type(part).__name__))


def plain(config: Any, tables: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Convert settings to plain JSON values; functions become their key in a table, or "own:" and their name.

    Args:
        config: a dataclass.
        tables: tables of known parts, by setting.
    """

    def value_of(name: str, value: Any) -> Any:
        if isinstance(value, Linear):
            return str(value)  # as ``change`` reads it
        if callable(value):
            return name_of(value, tables.get(name, {}))
        if isinstance(value, dict):
            return {key: value_of(name, item) for key, item in value.items()}
        return list(value) if isinstance(value, tuple) else value

    return {field.name: value_of(field.name, getattr(config, field.name)) for field in dataclasses.fields(config)}


NAME = PrimitiveConstructorSpec[Any](
    nargs=1,
    metavar="NAME",
    instance_from_str=lambda words: None if words[0] == "None" else words[0],
    is_instance=lambda value: True,
    str_from_instance=lambda value: ["None" if value is None else name_of(value, {})],
)
"""Marks a setting that takes a name on the command line, and an object too in Python."""

NUMBER = PrimitiveConstructorSpec[Any](
    nargs=1,
    metavar="FLOAT",
    instance_from_str=lambda words: Linear(words[0]) if words[0].startswith(LINEAR) else float(words[0]),
    is_instance=lambda value: True,
    str_from_instance=lambda value: [str(value) if isinstance(value, float | int | Linear) else name_of(value, {})],
)
"""Marks a setting that takes a number on the command line, and a function too in Python."""


def _of_classes(table: Mapping[str, Any]) -> bool:
    return any(isinstance(part, type) for part in table.values())


def _shown(kind: type | tuple[type, ...] | None, table: Mapping[str, Any]) -> str:
    if kind is None:
        return "a function"
    kinds = kind if isinstance(kind, tuple) else (kind,)
    if _of_classes(table):
        return f"a class made from {' or '.join(one.__name__ for one in kinds)}"
    return " or ".join(f"a {one.__name__}" for one in kinds)
