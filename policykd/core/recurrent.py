"""Recurrent networks of many learners: a GRU followed by an MLP, all learners in one call."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from policykd import native
from policykd.core.networks import MLP


@dataclass(frozen=True)
class GRU:
    """A GRU (Cho et al. 2014, as in ``torch.nn.GRU``) followed by an MLP; a ``Network``.

    The MLP reads the hidden state concatenated with the input. A row holds torch's parameters of the GRU, input weights
    ``(in, 3H)``, hidden weights ``(H, 3H)`` and the two biases, followed by the MLP's.

    Args:
        inputs: width of the input.
        width: number of units H.
        head: the MLP, whose input is ``width + inputs`` wide.
    """

    inputs: int
    width: int
    head: MLP

    @property
    def sections(self) -> list[int]:
        """Lengths of the parts of a row."""
        gates = 3 * self.width
        return [self.inputs * gates, self.width * gates, gates, gates, self.head.parameter_count]

    @property
    def parameter_count(self) -> int:
        """Length ``P`` of one row."""
        return sum(self.sections)

    def initialise(self, generator: np.random.Generator) -> Tensor:
        """Draw one row ``(P,)``, the units from U(-1/sqrt(H), 1/sqrt(H)) as torch does."""
        bound = 1.0 / math.sqrt(self.width)
        units = generator.uniform(-bound, bound, sum(self.sections[:-1])).astype(np.float32)
        return torch.cat((torch.from_numpy(units), self.head.initialise(generator)))

    def __call__(self, rows: Tensor, inputs: Tensor) -> Tensor:
        """Apply the network to first steps of episodes: ``(R, P)`` and ``(R, B, in)`` to ``(R, B, out)``."""
        state = inputs.new_zeros(*inputs.shape[:2], self.width)
        return self.unroll(rows, inputs.unsqueeze(1), torch.ones_like(inputs[:, None, :, 0]), state)[0].squeeze(1)

    def unroll(self, rows: Tensor, inputs: Tensor, starts: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """Run L steps of B sequences per network.

        Args:
            rows: parameters ``(R, P)``.
            inputs: ``(R, L, B, in)``.
            starts: 1 where an episode starts, and the state is reset before the step, ``(R, L, B)``.
            state: hidden state before the first step ``(R, B, H)``.

        Returns:
            Outputs ``(R, L, B, out)`` and the state after the last step.
        """
        learners, length, batch, _ = inputs.shape
        units, head = rows.split((sum(self.sections[:-1]), self.sections[-1]), dim=1)
        arguments = units, inputs, starts == 0, state
        states = native.gru(*arguments)
        if states is None:
            states = self._states(*arguments)
        read = torch.cat((states, inputs), dim=-1)
        outputs = self.head(head, read.view(learners, length * batch, -1))
        return outputs.view(learners, length, batch, -1), states[:, -1]

    def _states(self, units: Tensor, inputs: Tensor, continues: Tensor, state: Tensor) -> Tensor:
        """States ``(R, L, B, H)`` computed by torch from the GRU's parameters."""
        learners, length, batch, width = inputs.shape
        weights, recurrent, bias, recurrent_bias = units.split(self.sections[:-1], dim=1)
        gates = 3 * self.width
        seen = torch.baddbmm(bias.unsqueeze(1), inputs.reshape(learners, -1, width), weights.view(-1, width, gates))
        seen = seen.view(learners, length, batch, gates)
        recurrent = recurrent.view(-1, self.width, gates)
        arguments = seen, recurrent, recurrent_bias.unsqueeze(1), continues.unsqueeze(-1), state
        if torch.is_grad_enabled():
            states: Tensor = _Unrolled.apply(*arguments)
            return states
        return torch.stack([state for state, _ in _steps(*arguments)], dim=1)


class _Step(NamedTuple):
    """Intermediate values of one step, each ``(R, B, H)``."""

    before: Tensor
    """The state before the step, reset where an episode starts."""
    gates: Tensor
    """Reset and update gates, concatenated ``(R, B, 2H)``."""
    hidden: Tensor
    """Contribution of the state to the candidate, before the reset gate."""
    candidate: Tensor


def _steps(
    seen: Tensor, recurrent: Tensor, recurrent_bias: Tensor, continues: Tensor, state: Tensor
) -> Iterator[tuple[Tensor, _Step]]:
    """Yield the state after every step, with its intermediate values.

    Args:
        seen: contribution of the inputs to gates and candidate, ``(R, L, B, 3H)``.
        recurrent: hidden weights ``(R, H, 3H)``.
        recurrent_bias: hidden bias ``(R, 1, 3H)``.
        continues: False where an episode starts, ``(R, L, B, 1)``.
        state: state before the first step ``(R, B, H)``.
    """
    both, width = 2 * state.shape[-1], state.shape[-1]
    for x, new, go in zip(seen[..., :both].unbind(1), seen[..., both:].unbind(1), continues.unbind(1), strict=True):
        before = state.where(go, 0.0)  # a reset also clears NaN, which multiplying by 0 would keep
        gates, hidden = torch.baddbmm(recurrent_bias, before, recurrent).split((both, width), dim=-1)
        gates = (x + gates).sigmoid()
        reset, update = gates.chunk(2, dim=-1)
        candidate = torch.addcmul(new, reset, hidden).tanh()
        state = torch.addcmul(candidate, update, before - candidate)
        yield state, _Step(before, gates, hidden, candidate)


class _Unrolled(torch.autograd.Function):
    """The states of ``_steps``, ``(R, L, B, H)``, with a custom backward that needs a third of autograd's calls."""

    @staticmethod
    def forward(ctx: Any, *arguments: Tensor) -> Tensor:
        states, steps = zip(*_steps(*arguments), strict=True)
        ctx.save_for_backward(arguments[1], arguments[3], *(part for step in steps for part in step))
        return torch.stack(states, dim=1)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        recurrent, continues, *saved = ctx.saved_tensors
        steps = [_Step(*saved[at : at + 4]) for at in range(0, len(saved), 4)]
        (wanted,), of_state = gradients, torch.zeros_like(saved[0])
        of_seen, of_hidden = [], []
        for step, gradient, go in zip(
            reversed(steps), reversed(wanted.unbind(1)), reversed(continues.unbind(1)), strict=True
        ):
            gradient = gradient + of_state
            reset, update = step.gates.chunk(2, dim=-1)
            candidate = torch.ops.aten.tanh_backward(gradient - gradient * update, step.candidate)
            of_gates = torch.cat((candidate * step.hidden, gradient * (step.before - step.candidate)), dim=-1)
            of_gates = torch.ops.aten.sigmoid_backward(of_gates, step.gates)
            of_seen.append(torch.cat((of_gates, candidate), dim=-1))
            of_hidden.append(torch.cat((of_gates, candidate * reset), dim=-1))
            of_state = torch.baddbmm(gradient * update, of_hidden[-1], recurrent.mT) * go
        hidden = torch.stack(of_hidden[::-1], dim=1).flatten(1, 2)
        before = torch.stack([step.before for step in steps], dim=1).flatten(1, 2)
        return torch.stack(of_seen[::-1], dim=1), before.mT @ hidden, hidden.sum(1, keepdim=True), None, of_state


class SequenceNetwork:
    """A ``GRU`` as a network of flattened sequences ``(R, L * B, in)``; starts and states are set by ``set_starts``.

    Used in place of an MLP, it lets losses for single states apply to sequences.

    Args:
        network: the GRU.
    """

    def __init__(self, network: GRU) -> None:
        self.network = network
        self.starts, self.state = torch.empty(0), torch.empty(0)
        self.after = torch.empty(0)
        """The state after the latest inputs, ``(R, B, H)``."""

    def set_starts(self, starts: Tensor, state: Tensor) -> None:
        """Set where episodes start in the next inputs, ``(R, L, B)``, and the state before them, ``(R, B, H)``."""
        self.starts, self.state = starts, state

    def __call__(self, rows: Tensor, inputs: Tensor) -> Tensor:
        """Outputs ``(R, L * B, out)``; ``after`` is then the state after the last step."""
        shape = self.starts.shape
        outputs, state = self.network.unroll(rows, inputs.view(*shape, -1), self.starts, self.state)
        self.after = state.detach()
        return outputs.flatten(1, 2)
