"""Networks of many learners that remember: gated recurrent units before an MLP, all learners in one call."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from policykd.core.networks import MLP


@dataclass(frozen=True)
class GRU:
    """Gated recurrent units (Cho et al. 2014, as ``torch.nn.GRU`` computes them), then an MLP; a ``Network``.

    The MLP reads the units and the input beside them. A row holds torch's parameters of the units, input weights
    ``(in, 3H)``, hidden weights ``(H, 3H)`` and the two biases, and then the MLP's.

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
        """The first step of episodes: ``(R, P)`` and ``(R, B, in)`` to ``(R, B, out)``."""
        state = inputs.new_zeros(*inputs.shape[:2], self.width)
        return self.unroll(rows, inputs.unsqueeze(1), torch.ones_like(inputs[:, None, :, 0]), state)[0].squeeze(1)

    def unroll(self, rows: Tensor, inputs: Tensor, starts: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """L steps of B sequences of every network.

        Args:
            rows: parameters ``(R, P)``.
            inputs: ``(R, L, B, in)``.
            starts: 1 where an episode starts, and the state is emptied before the step, ``(R, L, B)``.
            state: what is remembered before the first step ``(R, B, H)``.

        Returns:
            outputs ``(R, L, B, out)`` and the state after the last step.
        """
        learners, length, batch, width = inputs.shape
        weights, recurrent, bias, recurrent_bias, head = rows.split(self.sections, dim=1)
        gates = 3 * self.width
        seen = torch.baddbmm(bias.unsqueeze(1), inputs.reshape(learners, -1, width), weights.view(-1, width, gates))
        seen = seen.view(learners, length, batch, gates)
        recurrent, recurrent_bias = recurrent.view(-1, self.width, gates), recurrent_bias.unsqueeze(1)
        goes_on = (1 - starts.to(inputs)).unsqueeze(-1)
        states = []
        for t in range(length):
            state = state * goes_on[:, t]
            x = seen[:, t]
            h = torch.baddbmm(recurrent_bias, state, recurrent)
            both, new = x[..., : 2 * self.width] + h[..., : 2 * self.width], x[..., 2 * self.width :]
            reset, update = both.sigmoid().chunk(2, dim=-1)
            candidate = torch.addcmul(new, reset, h[..., 2 * self.width :]).tanh()
            state = candidate + update * (state - candidate)
            states.append(state)
        read = torch.cat((torch.stack(states, dim=1), inputs), dim=-1)
        outputs = self.head(head, read.view(learners, length * batch, -1))
        return outputs.view(learners, length, batch, -1), state


class Along:
    """A ``GRU`` as a network of sequences laid out flat: it answers ``(R, L * B, in)`` from where it was placed.

    Whoever holds it in place of an MLP computes losses of sequences as of single states.

    Args:
        network: which one.
    """

    def __init__(self, network: GRU) -> None:
        self.network = network
        self.starts, self.state = torch.empty(0), torch.empty(0)
        self.after = torch.empty(0)
        """The state after the latest inputs, ``(R, B, H)``."""

    def place(self, starts: Tensor, state: Tensor) -> None:
        """Say where episodes start in the next inputs, ``(R, L, B)``, and what was before them, ``(R, B, H)``."""
        self.starts, self.state = starts, state

    def __call__(self, rows: Tensor, inputs: Tensor) -> Tensor:
        """Outputs ``(R, L * B, out)``; ``after`` is then the state after the last step."""
        shape = self.starts.shape
        outputs, state = self.network.unroll(rows, inputs.view(*shape, -1), self.starts, self.state)
        self.after = state.detach()
        return outputs.flatten(1, 2)
