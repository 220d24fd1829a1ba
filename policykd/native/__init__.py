"""MLPs and Adam in C for small networks on one CPU thread, where torch's products are slow and its calls dear.

The kernels are compiled at first use, and everything here is optional: where they cannot be had, ``usable`` is false,
``reason()`` says why, and callers keep to torch. ``POLICYKD_NATIVE=0`` in the environment switches them off.
"""

from __future__ import annotations

import ctypes
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from policykd.native import build

Sizes = tuple[int, ...]


@lru_cache(maxsize=None)
def _load() -> tuple[Any, str]:
    try:
        return build.load(), ""
    except build.Unavailable as unavailable:
        return None, str(unavailable)


def reason() -> str:
    """Say why the kernels are not available; empty if they are."""
    return _load()[1]


@torch.compiler.assume_constant_result
def _ready() -> bool:
    return _load()[0] is not None and torch.get_num_threads() == 1


def usable(rows: Tensor, inputs: Tensor) -> bool:
    """Whether ``mlp`` takes these tensors: float32 on the CPU, torch on one thread as the kernels are, kernels available.

    Inside ``torch.compile`` the number of threads is that of the time of tracing.
    """
    return (
        rows.dtype is torch.float32
        and inputs.dtype is torch.float32
        and rows.is_cpu
        and inputs.is_cpu
        and rows.stride(1) == 1
        and _ready()
    )


@lru_cache(maxsize=None)
def _layout(sizes: Sizes) -> tuple[Any, int, int, int]:
    """Widths as a C array, number of layers, numbers per row of parameters, width of all hidden layers together."""
    length = sum((inputs + 1) * outputs for inputs, outputs in zip(sizes[:-1], sizes[1:], strict=True))
    return (ctypes.c_ssize_t * len(sizes))(*sizes), len(sizes) - 1, length, sum(sizes[1:-1])


def _forward(rows: Tensor, inputs: Tensor, sizes: Sizes, keep: bool) -> tuple[Tensor, Tensor | None]:
    widths, layers, length, hidden_width = _layout(sizes)
    networks, samples, width = inputs.shape
    if rows.shape != (networks, length) or width != sizes[0]:
        raise ValueError(f"rows {tuple(rows.shape)} and inputs {tuple(inputs.shape)} do not fit layers of {sizes}")
    outputs = inputs.new_empty(networks, samples, sizes[-1])
    hidden = inputs.new_empty(networks, samples * hidden_width) if keep else None
    failed = _load()[0].forward(
        networks, samples, layers, widths, rows.data_ptr(), rows.stride(0),
        inputs.data_ptr(), *inputs.stride(), hidden.data_ptr() if keep else None, outputs.data_ptr(),
    )
    if failed:
        raise MemoryError("no memory for activations")
    return outputs, hidden


def _backward(
    gradient: Tensor, rows: Tensor, inputs: Tensor, hidden: Tensor, sizes: Sizes, to_rows: bool, to_inputs: bool
) -> tuple[Tensor | None, Tensor | None]:
    widths, layers, length, _ = _layout(sizes)
    networks, samples, width = inputs.shape
    row_gradient = inputs.new_empty(networks, length) if to_rows else None
    input_gradient = inputs.new_empty(networks, samples, width) if to_inputs else None
    failed = _load()[0].backward(
        networks, samples, layers, widths, rows.data_ptr(), rows.stride(0),
        inputs.data_ptr(), *inputs.stride(), hidden.data_ptr(), gradient.data_ptr(), *gradient.stride(),
        None if row_gradient is None else row_gradient.data_ptr(),
        None if input_gradient is None else input_gradient.data_ptr(),
    )
    if failed:
        raise MemoryError("no memory for gradients")
    return row_gradient, input_gradient


class _Eager(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, inputs: Tensor, sizes: Sizes) -> Tensor:
        outputs, hidden = _forward(rows, inputs, sizes, True)
        ctx.save_for_backward(rows, inputs, hidden)
        ctx.sizes = sizes
        return outputs

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Any:
        to_rows, to_inputs, _ = ctx.needs_input_grad
        return *_backward(gradient, *ctx.saved_tensors, ctx.sizes, to_rows, to_inputs), None


_ops = torch.library.Library("policykd", "DEF")
_ops.define("mlp(Tensor rows, Tensor inputs, int[] sizes) -> (Tensor, Tensor)")
_ops.define("mlp_backward(Tensor gradient, Tensor rows, Tensor inputs, Tensor hidden, int[] sizes, bool to_rows, bool to_inputs) -> (Tensor, Tensor)")

def _mlp_cpu(rows, inputs, sizes):
    return _forward(rows, inputs, tuple(sizes), True)

def _mlp_backward_cpu(gradient, rows, inputs, hidden, sizes, to_rows, to_inputs):
    a, b = _backward(gradient, rows, inputs, hidden, tuple(sizes), to_rows, to_inputs)
    return gradient.new_empty(0) if a is None else a, gradient.new_empty(0) if b is None else b

_ops.impl("mlp", _mlp_cpu, "CPU")
_ops.impl("mlp_backward", _mlp_backward_cpu, "CPU")

@torch.library.register_fake("policykd::mlp", lib=_ops)
def _(rows, inputs, sizes):
    n, b, _ = inputs.shape
    return inputs.new_empty(n, b, sizes[-1]), inputs.new_empty(n, b * sum(sizes[1:-1]))

@torch.library.register_fake("policykd::mlp_backward", lib=_ops)
def _(gradient, rows, inputs, hidden, sizes, to_rows, to_inputs):
    return rows.new_empty(rows.shape if to_rows else (0,)), inputs.new_empty(inputs.shape if to_inputs else (0,))


class _Compiled(torch.autograd.Function):
    @staticmethod
    def forward(rows, inputs, sizes):
        return torch.ops.policykd.mlp(rows, inputs, sizes)

    @staticmethod
    def setup_context(ctx, inputs, output):
        rows, x, ctx.sizes = inputs
        ctx.mark_non_differentiable(output[1])
        ctx.save_for_backward(rows, x, output[1])

    @staticmethod
    def backward(ctx, gradient, _):
        rows, x, hidden = ctx.saved_tensors
        to_rows, to_inputs, _ = ctx.needs_input_grad
        a, b = torch.ops.policykd.mlp_backward(gradient, rows, x, hidden, ctx.sizes, to_rows, to_inputs)
        return a if to_rows else None, b if to_inputs else None, None


@torch.compiler.allow_in_graph
def _traced(rows, inputs, sizes):
    return _Compiled.apply(rows, inputs, sizes)[0]

def mlp(rows: Tensor, inputs: Tensor, sizes: Sizes) -> Tensor:
    if torch.compiler.is_compiling():
        return _traced(rows, inputs, sizes)
    if torch.is_grad_enabled() and (rows.requires_grad or inputs.requires_grad):
        return _Eager.apply(rows, inputs, sizes)
    return _forward(rows, inputs, sizes, False)[0]


def adam_(rows: Tensor, mean: Tensor, square: Tensor, gradient: Tensor, betas: tuple[float, float], eps: float, step: float, learning_rate: float) -> None:
    beta1, beta2 = betas
    _load()[0].adam(
        rows.numel(), rows.data_ptr(), mean.data_ptr(), square.data_ptr(), gradient.data_ptr(),
        beta1, beta2, eps, learning_rate / (1 - beta1**step), (1 - beta2**step) ** -0.5,
    )
    torch.autograd.graph.increment_version(rows)
