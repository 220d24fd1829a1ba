"""``torch.compile`` for updates of small networks, with as little overhead per call as possible."""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import re
import shutil
import types
from collections.abc import Callable, Sequence
from typing import Any

import torch

from policykd import native
from policykd.core.errors import PolicyKDError
from policykd.native import build
from policykd.training.cuda_graph import CudaGraph

log = logging.getLogger("policykd")

CACHE = "TORCHINDUCTOR_CACHE_DIR"
"""Environment variable with the folder of torch's compile cache."""
PAYS = {"cpu": 100_000, "cuda": 10_000}
"""Gradient steps from which ``compile="auto"`` compiles: well below, compiling takes longer than it saves."""

MOST_FORMS = 8
"""Tuples of tensors that are remembered with their forms, and kept alive for it."""


def can_compile(device: torch.device) -> bool:
    """Whether this machine has what ``torch.compile`` needs: a GPU, or a C++ compiler for the CPU."""
    return device.type == "cuda" or any(map(shutil.which, (os.environ.get("CXX", "g++"), "clang++")))


def is_worth_compiling(updates: int, device: torch.device) -> bool:
    """Whether so many gradient steps repay what compiling takes, where this machine can."""
    return can_compile(device) and updates >= PAYS.get(device.type, PAYS["cpu"])


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
            "compile: torch.compile needs a C++ compiler (g++ or clang++): install one, or set compile=False"
        )
    native.prepare_to_compile()
    from torch._inductor.runtime.cache_dir_utils import default_cache_dir  # imports the compiler: only now

    if os.environ.get(CACHE) in (None, default_cache_dir()):  # nobody chose one: torch's own is lost at every start
        with contextlib.suppress(build.Unavailable):
            os.environ[CACHE] = str(build.cache_folder() / "torchinductor")
    assert isinstance(method, types.MethodType)
    options: dict[str, Any] = {"guard_filter_fn": _guards_of_arguments}
    if device.type == "cuda":
        pool = torch.cuda.graph_pool_handle()
        return PerSignature(method, lambda args: CudaGraph(_compile(method, options), args, device, pool))
    options["cpp_wrapper"] = True  # calls from C++ instead of Python: at these sizes a quarter of the time
    return PerSignature(method, lambda _: Direct(method, options))


def record(method: Callable[..., Any], device: torch.device) -> Callable[..., Any]:
    """A method that changes nothing, as one CUDA graph for each form of its arguments; on the processor as it is."""
    if device.type != "cuda":
        return method
    pool = torch.cuda.graph_pool_handle()
    return PerSignature(method, lambda args: CudaGraph(method, args, device, pool))


def _compile(method: types.MethodType, options: dict[str, Any]) -> Any:
    code = method.__func__.__code__.replace()  # torch keeps graphs with the code: one of its own for every agent
    function = types.FunctionType(code, method.__func__.__globals__)
    own = types.MethodType(functools.wraps(method.__func__)(function), method.__self__)
    return torch.compile(own, fullgraph=True, dynamic=False, options=options)


class PerSignature:
    """A method compiled for every form of its arguments on its own, so that each has one graph.

    What torch cannot compile, a divergence of the user's that looks at numbers for example, goes on as it is.

    Args:
        method: the method.
        compiled_for: what computes it for arguments of the form of these, compiled when first called.
    """

    def __init__(
        self, method: Callable[..., Any], compiled_for: Callable[[tuple[Any, ...]], Callable[..., Any]]
    ) -> None:
        self.method, self.compiled_for = method, compiled_for
        self.graphs: dict[Any, Callable[..., Any]] = {}
        self.forms: dict[int, tuple[tuple[Any, ...], Any]] = {}
        """Latest tuples of tensors by their ``id``, each with its form: most come again and again."""

    def __call__(self, *args: Any) -> Any:
        """The method's answer; the first one of a form of the arguments compiles."""
        form = tuple([self._form(value) for value in args])
        graph = self.graphs.get(form)
        return self._compiling(form, args) if graph is None else graph(*args)

    def _compiling(self, form: Any, args: tuple[Any, ...]) -> Any:
        graph = self.graphs[form] = self.compiled_for(args)
        try:
            return graph(*args)
        except RuntimeError as error:  # nothing has been computed yet
            if (why := _refusal(error)) is None:
                raise
        result = self.method(*args)  # which says what is wrong, if that is a fault of the method's
        log.warning(
            "compile: torch cannot compile this update (%s): training continues uncompiled, which is slower", why
        )
        self.graphs[form], self.compiled_for = self.method, lambda _: self.method
        return result

    def _form(self, value: Any) -> Any:
        """What a graph depends on of an argument: shape and strides of a tensor, and all of a flag."""
        if isinstance(value, torch.Tensor):
            return value.shape, value.stride()
        if not isinstance(value, tuple):
            return value
        known = self.forms.get(id(value))
        if known is not None:  # and alive, so that nothing else has this id
            return known[1]
        if len(self.forms) == MOST_FORMS:
            self.forms.clear()
        form = tuple(map(self._form, value))
        self.forms[id(value)] = value, form
        return form


class Direct:
    """A compiled method that is called without torch's bookkeeping: of a small update that is a tenth.

    After its first call what torch made of it is called as it is. Where torch does not say what that is, its own way
    stays.

    Args:
        method: a bound method as ``compile_step`` takes it, on the CPU.
        options: of ``torch.compile``.
    """

    def __init__(self, method: types.MethodType, options: dict[str, Any]) -> None:
        self.compiled = _compile(method, options)
        self.method = method
        self.graph: Callable[..., Any] | None = None

    def __call__(self, *args: Any) -> Any:
        """The method's answer; the first one compiles."""
        if self.graph is not None:
            return self.graph(*args)
        result = self.compiled(*args)
        self.graph = _graph_of(self.compiled, self.method) or self.compiled
        return result


def _graph_of(compiled: Any, method: types.MethodType) -> Callable[..., Any] | None:
    """What torch made of a compiled method that has been called once; None where it does not say so."""
    try:
        code = compiled._torchdynamo_orig_callable.__code__
        entries = torch._dynamo.eval_frame._debug_get_cache_entry_list(code)
        (made,) = (entry.code for entry in entries)
        known = method.__func__.__globals__
        # What it calls is wrapped to keep the tracer out, which is not there, and told to a profiler.
        within = {name: known[name] for name in made.co_names if name.startswith("__compiled_fn")}
        within = {name: function._torchdynamo_orig_callable for name, function in within.items()}
    except (AttributeError, KeyError, ValueError):
        return None
    unobserved = {"record_pregraph_bytecode_enter": lambda: None, "record_pregraph_bytecode_exit": lambda _: None}
    utils = types.SimpleNamespace(**vars(torch._dynamo.utils) | unobserved)
    names = {**known, **within, "__import_torch_dot__dynamo_dot_utils": utils}
    return types.MethodType(types.FunctionType(made, names), method.__self__)


def _refusal(error: RuntimeError) -> str | None:
    """Why torch cannot compile something, and where that is; None is another error."""
    from torch._dynamo.exc import TorchDynamoException

    if not isinstance(error, TorchDynamoException):
        return None
    text = str(error)
    places = re.findall(r'File "([^"]+)", line (\d+)', text)
    where = f", {os.path.basename(places[-1][0])}, line {places[-1][1]}" if places else ""
    return text.strip().split("\n", 1)[0] + where


def _guards_of_arguments(guards: Sequence[Any]) -> list[bool]:
    """Check only the arguments at every call, not the hundreds of tensors and settings behind ``self``."""
    return [not guard.name.startswith("L['self']") and not guard.is_global for guard in guards]
