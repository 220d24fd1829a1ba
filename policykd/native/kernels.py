"""The C kernels for tensors: MLPs, differentiable by autograd, and Adam."""

from __future__ import annotations

import ctypes
from functools import cache
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.autograd.graph import increment_version

from policykd.native import build

Sizes = tuple[int, ...]


@cache
def _load() -> tuple[ctypes.CDLL | None, str]:
    try:
        return build.load(), ""
    except build.Unavailable as unavailable:
        return None, str(unavailable)


@cache  # a cached result costs no Python call
def available() -> bool:
    """Whether the kernels are loaded; the first call builds them if necessary."""
    return _load()[0] is not None


def reason() -> str:
    """Say why the kernels are not available; empty if they are."""
    return _load()[1]


@cache
def library() -> ctypes.CDLL:
    """The loaded kernels.

    Raises:
        RuntimeError: the kernels are not available.
    """
    loaded, why = _load()
    if loaded is None:
        raise RuntimeError(f"native kernels are not available: {why}")
    return loaded


ACTIVATIONS = {"relu": 0, "tanh": 1, "elu": 2}
"""Codes of the activations in vectors.h."""


def set_threads(number: int) -> int:
    """Set the maximum number of threads (at most 64), and return the previous one."""
    return library().set_threads(number)


def set_bfloat16(on: bool) -> int:
    """Set whether products between hidden layers use bfloat16; returns the previous value, -1 if unsupported."""
    return library().set_bfloat16(on)


class _Layout(NamedTuple):
    network: build.Network  # an MLP as the kernels' struct
    length: int  # length of a row of parameters
    kept: int  # values per sample kept for backward


@cache
def layout(sizes: Sizes, activation: str, norm: bool) -> _Layout:
    """Layout of an MLP's parameters and kept values."""
    if len(sizes) < 2 or min(sizes) < 1:
        raise ValueError(f"an MLP needs at least two positive widths, not {sizes}")
    hidden = sizes[1:-1]
    length = sum((inputs + 1) * outputs for inputs, outputs in pairwise(sizes)) + (2 * sum(hidden) if norm else 0)
    kept = sum(hidden) + (len(hidden) if norm else 0)
    widths = (ctypes.c_ssize_t * len(sizes))(*sizes)
    network = build.Network(widths, len(sizes) - 1, max(sizes), length, kept, ACTIVATIONS[activation], norm)
    return _Layout(network, length, kept)


def forward(
    rows: Tensor, inputs: Tensor, sizes: Sizes, activation: str, norm: bool, keep: bool
) -> tuple[Tensor, Tensor | None]:
    """Compute outputs ``(R, B, out)``, and with ``keep`` the values for ``backward``.

    Args:
        rows: parameters ``(R, P)``, contiguous along ``P``.
        inputs: ``(R, B, in)`` with any strides.
        sizes: widths from input to output.
        activation: activation of the hidden layers.
        norm: whether hidden layers are normalised.
        keep: whether gradients will be needed.

    Raises:
        ValueError: shapes do not match.
        MemoryError: there is no memory for the workspace.
    """
    shape = layout(sizes, activation, norm)
    networks, samples, width = inputs.shape
    if rows.shape != (networks, shape.length) or width != sizes[0]:
        raise ValueError(f"rows {tuple(rows.shape)} and inputs {tuple(inputs.shape)} do not fit {sizes}")
    outputs = inputs.new_empty(networks, samples, sizes[-1])
    hidden = inputs.new_empty(networks, samples * shape.kept) if keep else None
    failed = library().forward(
        *(shape.network, networks, samples, rows.data_ptr(), rows.stride(0), inputs.data_ptr(), *inputs.stride()),
        *(None if hidden is None else hidden.data_ptr(), outputs.data_ptr()),
    )
    if failed:
        raise MemoryError("no memory for the activations of an MLP")
    return outputs, hidden


def backward(
    gradient: Tensor,
    rows: Tensor,
    inputs: Tensor,
    hidden: Tensor,
    sizes: Sizes,
    activation: str,
    norm: bool,
    to_rows: bool,
    to_inputs: bool,
) -> tuple[Tensor | None, Tensor | None]:
    """Compute gradients of rows ``(R, P)`` and inputs ``(R, B, in)``; None if not requested.

    Args:
        gradient: gradient of the outputs ``(R, B, out)`` with any strides.
        rows: as given to ``forward``.
        inputs: as given to ``forward``.
        hidden: values kept by ``forward``.
        sizes: as given to ``forward``.
        activation: as given to ``forward``.
        norm: as given to ``forward``.
        to_rows: whether to compute the gradient of rows.
        to_inputs: whether to compute the gradient of inputs.

    Raises:
        MemoryError: there is no memory for the workspace.
    """
    shape = layout(sizes, activation, norm)
    networks, samples, width = inputs.shape
    row_gradient = inputs.new_empty(networks, shape.length) if to_rows else None
    input_gradient = inputs.new_empty(networks, samples, width) if to_inputs else None
    failed = library().backward(
        *(shape.network, networks, samples, rows.data_ptr(), rows.stride(0), inputs.data_ptr(), *inputs.stride()),
        *(hidden.data_ptr(), gradient.data_ptr(), *gradient.stride()),
        None if row_gradient is None else row_gradient.data_ptr(),
        None if input_gradient is None else input_gradient.data_ptr(),
    )
    if failed:
        raise MemoryError("no memory for the gradients of an MLP")
    return row_gradient, input_gradient


def ready() -> bool:
    """Whether the kernels are available and torch uses one thread."""
    return torch.get_num_threads() == 1 and available()


def usable(rows: Tensor, inputs: Tensor) -> bool:
    """Whether the kernels are available and support these tensors: float32 on the CPU, with torch on one thread.

    Inside ``torch.compile``, availability and number of threads are fixed at tracing.
    """
    return (
        rows.dtype is torch.float32
        and inputs.dtype is torch.float32
        and rows.is_cpu
        and inputs.is_cpu
        and rows.stride(-1) == 1
        and ready()
    )


class _MLP(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, inputs: Tensor, shape: tuple[Sizes, str, bool]) -> Tensor:
        outputs, hidden = forward(rows, inputs, *shape, True)
        ctx.save_for_backward(rows, inputs, hidden)
        ctx.shape = shape
        return outputs

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Any:
        to_rows, to_inputs, _ = ctx.needs_input_grad
        rows, inputs, hidden = ctx.saved_tensors
        sizes, activation, norm = ctx.shape
        results = backward(gradient, rows, inputs, hidden, sizes, activation, norm, to_rows, to_inputs)
        return *results, None


def mlp(rows: Tensor, inputs: Tensor, sizes: Sizes, activation: str = "relu", norm: bool = False) -> Tensor | None:
    """Apply MLP ``r`` to inputs ``r``; None if the kernels are not ``usable``.

    Differentiable once, for the arguments that require a gradient. ``torch.func`` can take gradients only inside
    ``torch.compile``, before which ``prepare_to_compile`` must have been called.

    Args:
        rows: parameters ``(R, P)``: weight ``(in, out)``, then bias, then scale and shift of a normalised hidden
            layer, layer by layer; contiguous along ``P``.
        inputs: ``(R, B, in)`` with any strides.
        sizes: widths from input to output.
        activation: "relu", "tanh" or "elu", after every hidden layer.
        norm: whether hidden layers have layer norm before their activation.

    Returns:
        Outputs ``(R, B, out)``.

    Raises:
        ValueError: shapes do not match.
    """
    floats = rows.dtype is torch.float32 and inputs.dtype is torch.float32
    # ``usable``, inlined since every call of every network needs it.
    if not floats or not rows.is_cpu or not inputs.is_cpu or rows.stride(-1) != 1:
        return None
    if torch.get_num_threads() != 1 or not available():
        return None
    if torch.is_grad_enabled() and (rows.requires_grad or inputs.requires_grad):
        return _MLP.apply(rows, inputs, (sizes, activation, norm))
    return forward(rows, inputs, sizes, activation, norm, False)[0]


def adam_(
    rows: Tensor,
    exp_avg: Tensor,
    exp_avg_sq: Tensor,
    gradients: Tensor,
    *,
    steps: float | Tensor,
    learning_rate: float | Tensor,
    betas: tuple[float, float],
    eps: float,
) -> bool:
    """Take an in-place step of Adam on ``rows``, ``exp_avg`` and ``exp_avg_sq``; False if the kernels cannot.

    They need float32 on the CPU, and torch on one thread (``usable``).

    Args:
        rows: parameters ``(R, P)``, contiguous along ``P``.
        exp_avg: mean of gradients ``(R, P)``, contiguous.
        exp_avg_sq: mean of squared gradients ``(R, P)``, contiguous.
        gradients: gradients ``(R, P)``, with any strides.
        steps: number of steps including this one.
        learning_rate: a number or a tensor of one, or one per row, ``(R, 1)``.
        betas: decay rates of the two means.
        eps: added to the denominator.

    Raises:
        ValueError: an output tensor is not contiguous, or shapes differ.
    """
    if rows.dtype is not torch.float32 or not rows.is_cpu or torch.get_num_threads() != 1 or not available():
        return False
    gradients = gradients.contiguous()
    if not (rows.stride(-1) == 1 and exp_avg.is_contiguous() and exp_avg_sq.is_contiguous()):
        raise ValueError("parameters must be contiguous along a row, and moments altogether")
    if not rows.shape == exp_avg.shape == exp_avg_sq.shape == gradients.shape:
        raise ValueError("parameters, moments and gradients must have one shape")
    beta1, beta2 = betas
    steps = float(steps)
    rates: Tensor | float = learning_rate
    if isinstance(rates, Tensor):
        rates = rates.float().expand(len(rows), 1)
        address: Any = rates.data_ptr()
    else:
        address = ctypes.byref(ctypes.c_float(rates))
    library().adam(
        *(*rows.shape, rows.stride(0), rows.data_ptr()),
        *(exp_avg.data_ptr(), exp_avg_sq.data_ptr(), gradients.data_ptr()),
        *(address, rates.stride(0) if isinstance(rates, Tensor) else 0, 1 - beta1, beta2, 1 - beta2, eps),
        *(1 - beta1**steps, (1 - beta2**steps) ** -0.5),
    )
    increment_version(rows)  # as torch's in-place operations do, so that autograd detects stale graphs
    return True
