"""Where and on how many threads torch computes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from policykd.core.errors import PolicyKDError, one_line


def find_device(name: str) -> torch.device:
    """The device of this name; "auto" is CUDA where there is one."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except (RuntimeError, TypeError):  # its text is a list of all that torch could be built for
        raise PolicyKDError(f"device: {name!r} is unknown: take auto, cpu, cuda or, of several, cuda:1") from None
    try:
        torch.zeros((), device=device).item()
    except (RuntimeError, AssertionError) as error:  # torch built without CUDA fails an assertion
        raise PolicyKDError(f"device: {name!r} cannot be used: {one_line(error)}") from None
    return device


@contextmanager
def one_thread() -> Iterator[None]:
    """Let torch compute on one thread: at these sizes handing work to others costs more than it saves."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
