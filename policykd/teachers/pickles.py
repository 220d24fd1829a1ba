"""Pickles as data: what a pickle says, without doing it.

A pickle is a program that may call any function of Python, and even functions that only build arrays can be called so
that memory is read as something else. This reader builds plain values (numbers, texts, bytes, lists, tuples, dicts);
where a pickle calls something, it writes down what was to be called and with what (``Call``), and calls nothing.
"""

from __future__ import annotations

import math
import pickletools
from collections.abc import Callable
from typing import Any, BinaryIO, NamedTuple

import numpy as np

MOST_STEPS = 200_000
"""Instructions of a pickle that are read at most; those of a normaliser or of an agent's weights are some thousands."""

_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
_VALUES = (
    "INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT", "STRING", "BINSTRING",
    "SHORT_BINSTRING", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "BINBYTES", "SHORT_BINBYTES",
    "BINBYTES8", "BYTEARRAY8",
)  # fmt: skip
"""Instructions whose argument is the value."""
_DTYPES = {code: np.dtype(code) for code in ("b1", "f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8")}


class Name(NamedTuple):
    """Something that a pickle looks up: a class or a function, by where it is."""

    module: str
    name: str


class Call:
    """What a pickle calls, and what it then does with the result. Nothing of it is done."""

    __slots__ = ("arguments", "function", "items", "state")

    def __init__(self, function: object, arguments: object) -> None:
        self.function = function
        """A ``Name``, or another ``Call``."""
        self.arguments: tuple[Any, ...] = arguments if isinstance(arguments, tuple) else (arguments,)
        self.state: Any = None
        """What its ``__setstate__`` would get: of most objects, a dict of attributes."""
        self.items: dict[str, Any] = {}
        """What is put under its keys."""


PERSISTENT = Name("", "persistent_id")
"""Stands for the function that finds what a pickle refers to by an id."""


def load(file: BinaryIO, check: Callable[[Name], None]) -> Any:
    """The value that a pickle describes.

    Args:
        file: where the pickle begins; afterwards, what follows it.
        check: is told every name that the pickle looks up, and may raise.

    Raises:
        Exception: of any kind, where the pickle is damaged, too long, or does what only foreign ones do.
    """
    stack: list[Any] = []
    below: list[list[Any]] = []
    memo: dict[int, Any] = {}
    argument: Any

    def to_mark() -> list[Any]:
        nonlocal stack
        items, stack = stack, below.pop()
        return items

    def name(module: object, attribute: object) -> Name:
        if type(module) is not str or type(attribute) is not str:
            raise ValueError("a name that is no text")
        check(found := Name(module, attribute))
        return found

    for step, (opcode, argument, _) in enumerate(pickletools.genops(file)):
        if step > MOST_STEPS:
            raise ValueError(f"more than {MOST_STEPS:,} instructions")
        kind = opcode.name
        if kind in _VALUES:
            stack.append(argument)
        elif kind in _CONSTANTS:
            stack.append(_CONSTANTS[kind])
        elif kind in ("PROTO", "FRAME"):
            pass
        elif kind == "STOP":
            return stack.pop()
        elif kind == "MARK":
            below.append(stack)
            stack = []
        elif kind == "POP":
            stack.pop()
        elif kind == "POP_MARK":
            to_mark()
        elif kind == "DUP":
            stack.append(stack[-1])
        elif kind in ("PUT", "BINPUT", "LONG_BINPUT"):
            memo[_place(argument)] = stack[-1]
        elif kind == "MEMOIZE":
            memo[len(memo)] = stack[-1]
        elif kind in ("GET", "BINGET", "LONG_BINGET"):
            stack.append(memo[_place(argument)])
        elif kind in ("EMPTY_LIST", "EMPTY_SET"):
            stack.append([])
        elif kind == "EMPTY_DICT":
            stack.append({})
        elif kind in ("TUPLE1", "TUPLE2", "TUPLE3"):
            count = int(kind[-1])
            stack[-count:] = [tuple(stack[-count:])]
        elif kind in ("LIST", "FROZENSET", "TUPLE"):
            items = to_mark()
            stack.append(tuple(items) if kind == "TUPLE" else items)
        elif kind == "DICT":
            items = to_mark()
            stack.append(_filled({}, items))
        elif kind == "APPEND":
            _extend(stack[-2], [stack.pop()])
        elif kind in ("APPENDS", "ADDITEMS"):
            items = to_mark()
            _extend(stack[-1], items)
        elif kind == "SETITEM":
            value, key = stack.pop(), stack.pop()
            _filled(stack[-1], [key, value])
        elif kind == "SETITEMS":
            items = to_mark()
            _filled(stack[-1], items)
        elif kind == "GLOBAL":
            stack.append(name(*argument.split(" ", 1)))
        elif kind == "STACK_GLOBAL":
            attribute, module = stack.pop(), stack.pop()
            stack.append(name(module, attribute))
        elif kind in ("REDUCE", "NEWOBJ"):
            arguments = stack.pop()
            stack[-1] = Call(stack[-1], arguments)
        elif kind == "NEWOBJ_EX":
            _, arguments = stack.pop(), stack.pop()
            stack[-1] = Call(stack[-1], arguments)
        elif kind == "BINPERSID":
            stack[-1] = Call(PERSISTENT, (stack[-1],))
        elif kind == "BUILD":
            state = stack.pop()
            if not isinstance(stack[-1], Call):
                raise ValueError("a state for what has none")
            stack[-1].state = state
        else:
            raise ValueError(f"instruction {kind}")
    raise ValueError("no end")


def _place(number: int) -> int:
    """A number of the memo; huge ones would be chosen to make dicts slow."""
    if not 0 <= number < 2**32:
        raise ValueError("a place beyond any memo")
    return number


def _extend(target: Any, items: list[Any]) -> None:
    """Append to a list; what a call's result would be given is not kept."""
    if isinstance(target, list):
        target.extend(items)
    elif not isinstance(target, Call):
        raise ValueError("appends to no list")


def _filled(target: Any, pairs: list[Any]) -> Any:
    """Put values under their keys. Keys that are not text cannot be attributes: they are dropped."""
    items = target.items if isinstance(target, Call) else target
    if not isinstance(items, dict) or len(pairs) % 2:
        raise ValueError("puts items into no dict")
    items.update((key, value) for key, value in zip(pairs[::2], pairs[1::2], strict=True) if type(key) is str)
    return target


def array(value: Any) -> np.ndarray:
    """A number or an array, rebuilt from its bytes: plain types, and exactly as many bytes as its shape needs."""
    if type(value) in (bool, int, float):
        return np.array(float(value))
    if not isinstance(value, Call) or not isinstance(value.function, Name):
        raise ValueError("values that are no numbers")
    shape: tuple[int, ...] = ()
    by_columns = False
    if value.function.name == "_reconstruct":
        _, shape, dtype, by_columns, data = value.state
    elif value.function.name == "_frombuffer":
        data, dtype, shape, order = value.arguments
        by_columns = order == "F"
    elif value.function.name == "scalar":
        dtype, data = value.arguments
    else:
        raise ValueError(f"an array by {value.function.name}")
    if isinstance(data, Call) and data.function == ("_codecs", "encode"):
        data = data.arguments[0].encode("latin1")
    if not isinstance(data, bytes | bytearray):
        raise ValueError("an array of objects")
    kind = _DTYPES[dtype.arguments[0]].newbyteorder(">" if (dtype.state or "==")[1] == ">" else "<")
    if any(type(length) is not int or length < 0 for length in shape) or math.prod(shape) * kind.itemsize != len(data):
        raise ValueError("an array whose bytes do not fit its shape")
    return np.frombuffer(bytes(data), kind).reshape(shape, order="F" if by_columns else "C")
