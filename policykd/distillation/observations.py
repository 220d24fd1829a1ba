"""Parts of an observation as words of a command line."""

from __future__ import annotations

import re
from typing import Any

from tyro.constructors import PrimitiveConstructorSpec

from policykd.core.registry import name_of


def _parts(words: list[str]) -> tuple[int | str, ...] | None:
    return None if words in ([], ["None"]) else tuple(int(word) if word.isdecimal() else word for word in words)


def _part_words(value: Any) -> list[str]:
    if value is None or isinstance(value, str):
        return [str(value)]
    return [name_of(value, {})] if callable(value) else [str(part) for part in value]


def _groups(words: list[str]) -> dict[str, tuple[int, ...]] | None:
    if words in ([], ["None"]):
        return None
    groups: dict[str, tuple[int, ...]] = {}
    for word in words:
        form = re.fullmatch(r"([^=]+)=(?:(\d{1,7}):(\d{1,7})|(\d{1,7}(?:,\d{1,7})*))", word)
        if form is None or form[1] in groups:
            raise ValueError(f"{word!r} must be NAME=0:3 or NAME=0,1,2, with distinct names")
        name, first, end, columns = form.groups()
        groups[name] = tuple(range(int(first), int(end)) if columns is None else map(int, columns.split(",")))
    return groups


def _group_words(value: Any) -> list[str]:
    return ["None"] if value is None else [f"{name}={','.join(map(str, columns))}" for name, columns in value.items()]


PARTS = PrimitiveConstructorSpec[Any](
    nargs="*",
    metavar="[GROUP|COLUMN ...]",
    instance_from_str=_parts,
    is_instance=lambda value: True,
    str_from_instance=_part_words,
)
"""Groups and columns."""
GROUPS = PrimitiveConstructorSpec[Any](
    nargs="*",
    metavar="[NAME=COLUMNS ...]",
    instance_from_str=_groups,
    is_instance=lambda value: True,
    str_from_instance=_group_words,
)
"""Columns by name: ``joints=0:8 camera=8,9``."""
