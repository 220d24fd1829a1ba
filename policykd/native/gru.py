"""GRUs over sequences in C, with backpropagation through time."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from policykd.native.kernels import library, usable

KEPT = 5
"""Values per state kept for the backward pass, as in gru.c."""


def gru(rows: Tensor, inputs: Tensor, continues: Tensor, state: Tensor) -> Tensor | None:
    """Compute the states after every step of B sequences per network; None if the kernels are not ``usable``.

    Differentiable once, with respect to rows, inputs and state.

    Args:
        rows: parameters ``(R, P)``: input weights ``(in, 3H)``, hidden weights ``(H, 3H)`` and the two biases, each for
            reset gate, update gate and candidate; contiguous along ``P``.
        inputs: ``(R, L, B, in)``.
        continues: False where the state is reset before the step, ``(R, L, B)``.
        state: state before the first step ``(R, B, H)``.

    Returns:
        States ``(R, L, B, H)``.

    Raises:
        ValueError: shapes do not match.
        MemoryError: there is no memory for the workspace.
    """
    if not usable(rows, inputs) or state.dtype is not torch.float32:
        return None
    networks, length, batch, width = inputs.shape
    units = state.shape[-1]
    fits = rows.shape == (networks, 3 * units * (width + units + 2)) and state.shape == (networks, batch, units)
    if not fits or continues.shape != (networks, length, batch):
        shapes = ", ".join(str(tuple(tensor.shape)) for tensor in (rows, inputs, continues, state))
        raise ValueError(f"rows, inputs, continues and state do not fit: {shapes}")
    inputs, continues, state = inputs.contiguous(), continues.contiguous(), state.contiguous()
    if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in (rows, inputs, state)):
        states: Tensor = _GRU.apply(rows, inputs, continues, state)
        return states
    return _forward(rows, inputs, continues, state, False)[0]


def _forward(
    rows: Tensor, inputs: Tensor, continues: Tensor, state: Tensor, keep: bool
) -> tuple[Tensor, Tensor | None]:
    """The states, and with ``keep`` the values for the backward pass."""
    networks, length, batch, width = inputs.shape
    states = inputs.new_empty(networks, length, batch, state.shape[-1])
    kept = inputs.new_empty(KEPT * states.numel()) if keep else None
    failed = library().gru_forward(
        *(networks, width, state.shape[-1], length, batch, rows.data_ptr(), rows.stride(0), inputs.data_ptr()),
        *(continues.data_ptr(), state.data_ptr(), None if kept is None else kept.data_ptr(), states.data_ptr()),
    )
    if failed:
        raise MemoryError("no memory for the steps of a GRU")
    return states, kept


class _GRU(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, inputs: Tensor, continues: Tensor, state: Tensor) -> Tensor:
        states, kept = _forward(rows, inputs, continues, state, True)
        ctx.save_for_backward(rows, inputs, continues, kept)
        return states

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Any:
        rows, inputs, continues, kept = ctx.saved_tensors
        (networks, length, batch, width), units, gradient = inputs.shape, gradient.shape[-1], gradient.contiguous()
        to_rows, to_state = torch.empty_like(rows), inputs.new_empty(networks, batch, units)
        to_inputs = torch.empty_like(inputs) if ctx.needs_input_grad[1] else None
        failed = library().gru_backward(
            *(networks, width, units, length, batch, rows.data_ptr(), rows.stride(0), inputs.data_ptr()),
            *(continues.data_ptr(), kept.data_ptr(), gradient.data_ptr(), to_rows.data_ptr()),
            *(None if to_inputs is None else to_inputs.data_ptr(), to_state.data_ptr()),
        )
        if failed:
            raise MemoryError("no memory for the gradients of a GRU")
        return to_rows, to_inputs, None, to_state
