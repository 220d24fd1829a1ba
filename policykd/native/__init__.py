"""MLPs and Adam in C for small networks on the CPU, where torch is far from the speed of the machine.

The kernels are compiled at first use, and optional: where they cannot be had, ``usable`` is false,
``reason()`` says why, and callers keep to torch. ``POLICYKD_NATIVE=0`` in the environment switches them off.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from policykd.native import kernels, traced
from policykd.native.kernels import Sizes, adam_, reason
from policykd.native.precision import Precision, precision, supports
from policykd.native.threads import Threads, cores, count, threads

__all__ = [
    "Precision",
    "Threads",
    "adam_",
    "cores",
    "count",
    "mlp",
    "precision",
    "prepare_to_compile",
    "reason",
    "supports",
    "threads",
    "usable",
]


@cache
def prepare_to_compile() -> None:
    """Ready the kernels for ``torch.compile``; to be called before anything with them is compiled."""
    traced.prepare()
    # Not decorators: they import the compiler, for seconds. Eager calls need not ask whether they are traced.
    torch.compiler.assume_constant_result(_ready)
    torch.compiler.substitute_in_graph(mlp)(_mlp_in_graph)


def _ready() -> bool:
    return torch.get_num_threads() == 1 and kernels.available()


def usable(rows: Tensor, inputs: Tensor) -> bool:
    """Whether the kernels are there and take these tensors: float32, on the CPU, torch on one thread as well.

    Inside ``torch.compile`` availability and the number of threads are those at the time of tracing.
    """
    return (
        rows.dtype is torch.float32
        and inputs.dtype is torch.float32
        and rows.is_cpu
        and inputs.is_cpu
        and rows.stride(-1) == 1
        and _ready()
    )


class _MLP(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, inputs: Tensor, shape: tuple[Sizes, str, bool]) -> Tensor:
        outputs, hidden = kernels.forward(rows, inputs, *shape, True)
        ctx.save_for_backward(rows, inputs, hidden)
        ctx.shape = shape
        return outputs

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Any:
        to_rows, to_inputs, _ = ctx.needs_input_grad
        rows, inputs, hidden = ctx.saved_tensors
        sizes, activation, norm = ctx.shape
        results = kernels.backward(gradient, rows, inputs, hidden, sizes, activation, norm, to_rows, to_inputs)
        return *results, None


def mlp(rows: Tensor, inputs: Tensor, sizes: Sizes, activation: str = "relu", norm: bool = False) -> Tensor | None:
    """Apply MLP ``r`` to inputs ``r``; None where the kernels are not ``usable``.

    Differentiable once, with respect to what requires a gradient; only that is computed. ``torch.func`` can
    take gradients inside ``torch.compile`` only, before which ``prepare_to_compile`` must have been called.

    Args:
        rows: parameters ``(R, P)``: weight ``(in, out)``, then bias, then scale and shift of a normalised hidden
            layer, layer by layer; contiguous along ``P``.
        inputs: ``(R, B, in)`` with any strides.
        sizes: widths from input to output.
        activation: "relu", "tanh" or "elu", after every hidden layer.
        norm: normalise hidden layers before their activation.

    Returns:
        Outputs ``(R, B, out)``.

    Raises:
        ValueError: the shapes do not fit each other.
    """
    floats = rows.dtype is torch.float32 and inputs.dtype is torch.float32
    # ``usable``, written out: every call of every network asks.
    if not floats or not rows.is_cpu or not inputs.is_cpu or rows.stride(-1) != 1:
        return None
    if torch.get_num_threads() != 1 or not kernels.available():
        return None
    if torch.is_grad_enabled() and (rows.requires_grad or inputs.requires_grad):
        return _MLP.apply(rows, inputs, (sizes, activation, norm))
    return kernels.forward(rows, inputs, sizes, activation, norm, False)[0]


def _mlp_in_graph(
    rows: Tensor, inputs: Tensor, sizes: Sizes, activation: str = "relu", norm: bool = False
) -> Tensor | None:
    return traced.mlp(rows, inputs, sizes, activation, norm) if usable(rows, inputs) else None
