"""Reads pickles as data, without running them.

A pickle is a program that may call any Python function, and even functions that only build arrays can be called in ways
that misinterpret memory. This reader builds plain values (numbers, strings, bytes, lists, tuples, dicts); calls are
recorded as a ``Call`` with function and arguments, and never made.
"""

from __future__ import annotations

import math
import pickletools
from collections.abc import Callable
from typing import Any, BinaryIO, NamedTuple

import numpy as np

MOST_STEPS = 200_000
"""Maximum number of instructions in a pickle; a normaliser or an agent's weights have some thousands."""

_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
_VALUES = (
    "INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT", "STRING", "BINSTRING",
    "SHORT_BINSTRING", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "BINBYTES", "SHORT_BINBYTES",
    "BINBYTES8", "BYTEARRAY8",
)  # fmt: skip
"""Instructions whose argument is the value."""
_DTYPES = {code: np.dtype(code) for code in ("b1", "f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8")}


class Name(NamedTuple):
    """A class or function that a pickle looks up, by its module and name."""

    module: str
    name: str


class Call:
    """A call in a pickle, and what the pickle then does with the result. None of it is carried out."""

    __slots__ = ("arguments", "function", "items", "state")

    def __init__(self, function: object, arguments: object) -> None:
        self.function = function
        """A ``Name``, or another ``Call``."""
        self.arguments: tuple[Any, ...] = arguments if isinstance(arguments, tuple) else (arguments,)
        self.state: Any = None
        """The argument of its ``__setstate__``: for most objects, a dict of attributes."""
        self.items: dict[str, Any] = {}
        """Items that the pickle sets on the result, by key."""


PERSISTENT = Name("", "persistent_id")
"""Stands for the function that resolves persistent ids."""


def load(file: BinaryIO, check: Callable[[Name], None]) -> Any:
    """The value that a pickle describes.

    Args:
        file: positioned at the start of the pickle; afterwards at its end.
        check: called with every name that the pickle looks up; may raise.

    Raises:
        Exception: of any kind, if the pickle is damaged, too long, or uses unsupported instructions.
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
            raise ValueError("a name that is not text")
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
                raise ValueError("a state for an object without state")
            stack[-1].state = state
        else:
            raise ValueError(f"instruction {kind}")
    raise ValueError("no end")


def _place(number: int) -> int:
    """Check an index of the memo; huge ones are only chosen to make dicts slow."""
    if not 0 <= number < 2**32:
        raise ValueError("an index beyond the memo")
    return number


def _extend(target: Any, items: list[Any]) -> None:
    """Append to a list; items appended to a call's result are dropped."""
    if isinstance(target, list):
        target.extend(items)
    elif not isinstance(target, Call):
        raise ValueError("appends to something other than a list")


def _filled(target: Any, pairs: list[Any]) -> Any:
    """Set items by key. Keys that are not strings cannot be attributes and are dropped."""
    items = target.items if isinstance(target, Call) else target
    if not isinstance(items, dict) or len(pairs) % 2:
        raise ValueError("sets items of something other than a dict")
    items.update((key, value) for key, value in zip(pairs[::2], pairs[1::2], strict=True) if type(key) is str)
    return target


def array(value: Any) -> np.ndarray:
    """Rebuild a number or an array from its bytes: plain dtypes only, with exactly the bytes its shape needs."""
    if type(value) in (bool, int, float):
        return np.array(float(value))
    if not isinstance(value, Call) or not isinstance(value.function, Name):
        raise ValueError("values that are not numbers")
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
