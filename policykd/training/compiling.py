"""``torch.compile`` as it serves updates of small networks best."""

from __future__ import annotations

import contextlib
import functools
import os
import shutil
import types
from collections.abc import Callable, Sequence
from typing import Any

import torch

from policykd import native
from policykd.core.errors import PolicyKDError
from policykd.native import build

CACHE = "TORCHINDUCTOR_CACHE_DIR"
"""The variable that says where torch keeps what it compiled."""
PAYS = 100_000
"""Gradient steps from which ``compile="auto"`` compiles: below, compiling takes longer than it saves."""


def can_compile(device: torch.device) -> bool:
    """Whether this machine has what ``torch.compile`` needs: a GPU, or a C++ compiler for the CPU."""
    return device.type == "cuda" or any(map(shutil.which, (os.environ.get("CXX", "g++"), "clang++")))


def compile_step(method: Callable[..., Any], device: torch.device) -> Any:
    """``torch.compile`` of a method as it serves small networks best; what is compiled is kept for later runs.

    Args:
        method: a bound method whose object stays as it is: tensors are changed in place, and nothing else at all.
        device: where it computes.

    Raises:
        PolicyKDError: there is no C++ compiler.
    """
    if not can_compile(device):
        raise PolicyKDError(
            "compile: torch.compile needs a C++ compiler (g++ or clang++): install one, or compile=False"
        )
    native.prepare_to_compile()
    from torch._inductor.runtime.cache_dir_utils import default_cache_dir  # imports the compiler: only now

    if os.environ.get(CACHE) in (None, default_cache_dir()):  # nobody chose one: torch's own is lost at every start
        with contextlib.suppress(build.Unavailable):
            os.environ[CACHE] = str(build.cache_folder() / "torchinductor")
    assert isinstance(method, types.MethodType)
    code = method.__func__.__code__.replace()  # torch keeps graphs with the code: one of its own for every agent
    function = types.FunctionType(code, method.__func__.__globals__)
    own = types.MethodType(functools.wraps(method.__func__)(function), method.__self__)
    options: dict[str, Any] = {"guard_filter_fn": _guards_of_arguments}
    if device.type == "cuda":  # CUDA graphs replay the whole step with one call
        options["triton.cudagraphs"] = True
    else:  # calls from C++ instead of Python: at these sizes a quarter of the time
        options["cpp_wrapper"] = True
    return torch.compile(own, fullgraph=True, dynamic=False, options=options)


def _guards_of_arguments(guards: Sequence[Any]) -> list[bool]:
    """Check only the arguments at every call, not the hundreds of tensors and settings behind ``self``."""
    return [not guard.name.startswith("L['self']") and not guard.is_global for guard in guards]
