"""The kernels as operators for graphs of ``torch.compile``, differentiable by ``torch.func``.

Compiled code calls them in C++ (``ops.cpp``), or through Python if those cannot be built. Eager code does not use
operators, since they take twice the time of the calls in ``kernels``.
"""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor

from policykd.native import build, kernels

Sizes = kernels.Sizes

_library = torch.library.Library("policykd", "DEF")
_library.define("mlp(Tensor rows, Tensor inputs, int[] sizes, str activation, bool norm) -> Tensor")
# ``kept`` is an argument, so that cached graphs are not reused for another version of the kernels.
_library.define(
    "mlp_kept(Tensor rows, Tensor inputs, int[] sizes, str activation, bool norm, int kept) -> (Tensor, Tensor)"
)
_library.define(
    "mlp_backward(Tensor gradient, Tensor rows, Tensor inputs, Tensor hidden, int[] sizes, str activation, bool norm,"
    " bool to_rows, bool to_inputs) -> (Tensor, Tensor)"
)


def _mlp(rows: Tensor, inputs: Tensor, sizes: list[int], activation: str, norm: bool) -> Tensor:
    return kernels.forward(rows, inputs, tuple(sizes), activation, norm, False)[0]


def _mlp_kept(rows: Tensor, inputs: Tensor, sizes: list[int], activation: str, norm: bool, kept: int) -> Any:
    return kernels.forward(rows, inputs, tuple(sizes), activation, norm, True)


def _mlp_backward(
    gradient: Tensor,
    rows: Tensor,
    inputs: Tensor,
    hidden: Tensor,
    sizes: list[int],
    activation: str,
    norm: bool,
    to_rows: bool,
    to_inputs: bool,
) -> tuple[Tensor, Tensor]:
    results = kernels.backward(gradient, rows, inputs, hidden, tuple(sizes), activation, norm, to_rows, to_inputs)
    first, second = (gradient.new_empty(0) if result is None else result for result in results)
    return first, second  # operators must return tensors; an empty one stands for None


def _shape_of_mlp(rows: Tensor, inputs: Tensor, sizes: list[int], activation: str, norm: bool) -> Tensor:
    return inputs.new_empty(inputs.shape[0], inputs.shape[1], sizes[-1])


def _shape_of_mlp_kept(
    rows: Tensor, inputs: Tensor, sizes: list[int], activation: str, norm: bool, kept: int
) -> tuple[Tensor, Tensor]:
    hidden = inputs.new_empty(inputs.shape[0], inputs.shape[1] * kept)
    return _shape_of_mlp(rows, inputs, sizes, activation, norm), hidden


def _shape_of_mlp_backward(
    gradient: Tensor,
    rows: Tensor,
    inputs: Tensor,
    hidden: Tensor,
    sizes: list[int],
    activation: str,
    norm: bool,
    to_rows: bool,
    to_inputs: bool,
) -> tuple[Tensor, Tensor]:
    return rows.new_empty(rows.shape if to_rows else 0), inputs.new_empty(inputs.shape if to_inputs else 0)


_operators: list[tuple[str, Callable[..., Any], Callable[..., Any]]] = [
    ("mlp", _mlp, _shape_of_mlp),
    ("mlp_kept", _mlp_kept, _shape_of_mlp_kept),
    ("mlp_backward", _mlp_backward, _shape_of_mlp_backward),
]
for _name, _, _shape in _operators:
    torch.library.register_fake(f"policykd::{_name}", _shape, lib=_library)


@cache
def prepare_to_compile() -> None:
    """Prepare the kernels for ``torch.compile``; call it before compiling anything that uses them."""
    # Not decorators, since they import the compiler, which takes seconds.
    torch.compiler.assume_constant_result(kernels.ready)
    torch.compiler.substitute_in_graph(kernels.mlp)(mlp)
    # Opaque to Dynamo, which would trace only `forward`, since to it the tensors of torch.func require no gradient.
    torch.compiler.allow_in_graph(_differentiable)
    if not kernels.available():
        return
    try:
        torch.ops.load_library(str(build.build_operators()))
    except (build.Unavailable, OSError, subprocess.SubprocessError):
        for name, kernel, _ in _operators:
            _library.impl(name, kernel, "CPU")


class _MLP(torch.autograd.Function):
    """``torch.func`` needs a separate ``setup_context``, which is slower than eager code's version."""

    @staticmethod
    def forward(rows: Tensor, inputs: Tensor, sizes: Sizes, activation: str, norm: bool) -> Any:
        kept = kernels.layout(sizes, activation, norm).kept
        return torch.ops.policykd.mlp_kept(rows, inputs, sizes, activation, norm, kept)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        rows, batch, *ctx.shape = inputs
        ctx.save_for_backward(rows, batch, output[1])
        ctx.mark_non_differentiable(output[1])

    @staticmethod
    def backward(ctx: Any, gradient: Tensor, _: Tensor) -> Any:
        to_rows, to_inputs, *_ = ctx.needs_input_grad
        results = torch.ops.policykd.mlp_backward(gradient, *ctx.saved_tensors, *ctx.shape, to_rows, to_inputs)
        return results[0] if to_rows else None, results[1] if to_inputs else None, None, None, None


def _differentiable(rows: Tensor, inputs: Tensor, sizes: Sizes, activation: str, norm: bool) -> Tensor:
    return _MLP.apply(rows, inputs, sizes, activation, norm)[0]


def mlp(rows: Tensor, inputs: Tensor, sizes: Sizes, activation: str = "relu", norm: bool = False) -> Tensor | None:
    """As ``kernels.mlp``, for functions that ``torch.compile`` traces."""
    if not kernels.usable(rows, inputs):
        return None
    if torch.is_grad_enabled():
        return _differentiable(rows, inputs, sizes, activation, norm)
    return torch.ops.policykd.mlp(rows, inputs, sizes, activation, norm)
