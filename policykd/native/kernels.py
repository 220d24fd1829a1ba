"""The C kernels on tensors: MLPs, which autograd can differentiate, and Adam."""

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


@cache  # also where nothing is computed: a cached answer costs no Python call
def available() -> bool:
    """Whether the kernels are loaded; the first call builds them if need be."""
    return _load()[0] is not None


def reason() -> str:
    """Say why the kernels are not available; empty if they are."""
    return _load()[1]


@cache
def library() -> ctypes.CDLL:
    """The loaded kernels.

    Raises:
        RuntimeError: they are not available.
    """
    loaded, why = _load()
    if loaded is None:
        raise RuntimeError(f"native kernels are not available: {why}")
    return loaded


ACTIVATIONS = {"relu": 0, "tanh": 1, "elu": 2}
"""As in vectors.h."""


def set_threads(number: int) -> int:
    """Let calls use up to ``number`` threads (64 at most) and return how many it was before."""
    return library().set_threads(number)


def set_bfloat16(on: bool) -> int:
    """Whether products between hidden layers round their operands; returns what was before, -1 where they cannot."""
    return library().set_bfloat16(on)


class _Layout(NamedTuple):
    network: build.Network  # what the kernels must know of an MLP
    length: int  # numbers in a row of parameters
    kept: int  # numbers that forward keeps of a sample for backward


@cache
def layout(sizes: Sizes, activation: str, norm: bool) -> _Layout:
    """What the kernels must know of an MLP of these widths."""
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
    """Outputs ``(R, B, out)``, and what ``backward`` needs if ``keep``.

    Args:
        rows: parameters ``(R, P)``, contiguous along ``P``.
        inputs: ``(R, B, in)`` with any strides.
        sizes: widths from input to output.
        activation: of the hidden layers.
        norm: whether hidden layers are normalised.
        keep: whether gradients will be asked for.

    Raises:
        ValueError: the shapes do not fit each other.
        MemoryError: no memory for working space.
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
    """Gradients of rows ``(R, P)`` and of inputs ``(R, B, in)``, of each only if asked for, else ``None``.

    Args:
        gradient: gradient of the outputs ``(R, B, out)`` with any strides.
        rows: as given to ``forward``.
        inputs: as given to ``forward``.
        hidden: as ``forward`` returned it.
        sizes: as given to ``forward``.
        activation: as given to ``forward``.
        norm: as given to ``forward``.
        to_rows: ask for the gradient of rows.
        to_inputs: ask for the gradient of inputs.

    Raises:
        MemoryError: no memory for working space.
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
    """Whether the kernels are there, and torch is on one thread as well."""
    return torch.get_num_threads() == 1 and available()


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
    """One step of Adam in place on ``rows``, ``exp_avg`` and ``exp_avg_sq``; False where the kernels are not for them.

    That is, other than float32 on the CPU with torch on one thread (``usable``).

    Args:
        rows: parameters ``(R, P)``, contiguous along ``P``.
        exp_avg: mean of gradients ``(R, P)``, contiguous.
        exp_avg_sq: mean of squared gradients ``(R, P)``, contiguous.
        gradients: gradients ``(R, P)``, with any strides.
        steps: number of steps including this one.
        learning_rate: step size: a number or a tensor of one, or one per row, ``(R, 1)``.
        betas: decay of the two means.
        eps: added to the denominator.

    Raises:
        ValueError: a tensor that is written is not contiguous, or shapes differ.
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
    increment_version(rows)  # as torch's own writes do: autograd then notices graphs made stale
    return True
