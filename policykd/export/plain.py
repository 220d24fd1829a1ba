"""A deployed policy as plain arrays: the source of exported C, and a NumPy policy where there is no compiler.

Float32, or int8 (``int8.py``).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from torch import Tensor, nn

from policykd.core.errors import PolicyKDError
from policykd.core.normaliser import CLIP
from policykd.export.deployed import DeployedPolicy

LEVELS = 127
"""Largest magnitude of an int8 number; -128 is not used, so that ranges are symmetric."""
TANH_LIMIT = 7.90531110763549805
"""Above this magnitude, tanh is 1 in float32."""
TANH_TINY = 4e-4
"""Below this magnitude, tanh(x) is x in float32."""
TANH_ODD = (
    *(4.89352455891786e-03, 6.37261928875436e-04, 1.48572235717979e-05, 5.12229709037114e-08),
    *(-8.60467152213735e-11, 2.00018790482477e-13, -2.76076847742355e-16),
)
"""Coefficients of x, x^3, ..., x^13 in the numerator of tanh, as in Eigen and XLA: within 4e-7 of tanh."""
TANH_EVEN = (4.89352518554385e-03, 2.26843463243900e-03, 1.18534705686654e-04, 1.19825839466702e-06)
"""Coefficients of 1, x^2, x^4, x^6 in its denominator."""


@dataclass(frozen=True)
class Layer:
    """One linear layer."""

    weight: np.ndarray
    """``(in, out)`` float32, or int8."""
    bias: np.ndarray
    """``(out,)`` float32; of an int8 layer, in units of the next layer's inputs."""
    scale: np.ndarray | None = None
    """``(out,)`` float32: factor of a sum of int8 products; None in float32."""


class GRUCell(NamedTuple):
    """Gated recurrent units as in torch: the gates are reset, update and candidate, in this order."""

    from_input: Layer
    """Reads the input ``(I,)`` into the gates ``(3H,)`` (torch's ``weight_ih``)."""
    from_state: Layer
    """Reads the hidden state ``(H,)`` into the gates ``(3H,)`` (torch's ``weight_hh``)."""

    def __call__(self, inputs: np.ndarray, read: np.ndarray, hidden: np.ndarray) -> np.ndarray:
        """Next hidden state ``(..., H)`` at ``inputs (..., I)``; ``read`` is ``hidden``, in int8 levels where int8."""
        from_input = np.split(linear(self.from_input, inputs), 3, axis=-1)
        from_state = np.split(linear(self.from_state, read), 3, axis=-1)
        gates = zip(from_input[:2], from_state[:2], strict=True)
        reset, update = (0.5 * np.tanh(0.5 * (x + h)) + 0.5 for x, h in gates)
        candidate = np.tanh(from_input[2] + reset * from_state[2])
        return candidate + update * (hidden - candidate)


@dataclass(frozen=True)
class PlainPolicy:
    """Raw observations to actions in the task's units, in float32 arithmetic."""

    layers: tuple[Layer, ...]
    tanh: bool
    """Whether the hidden activation is tanh rather than ReLU."""
    squash: bool
    """Whether actions are tanh of the outputs, scaled to the bounds."""
    low: np.ndarray
    """Smallest action ``(A,)``."""
    high: np.ndarray
    """Largest action ``(A,)``."""
    normaliser: np.ndarray | None = None
    """``(3, I)``: mean, its rounding error in float32, and 1 / standard deviation; None without normalisation."""
    input_scale: np.ndarray | None = None
    """``(H + I,)``: int8 levels per unit of hidden state, if any, and of each (normalised) input; None in float32."""
    columns: np.ndarray | None = None
    """Columns of the observation that it reads ``(I,)``, integers; None reads all."""
    size: int = 0
    """Length O of an observation, if it reads only some columns."""
    history: int = 1
    """Number of stacked parts; the earlier ones come from the state."""
    units: GRUCell | None = None
    """Recurrent units, whose state the layers read with the input; None if there are none."""

    @property
    def sizes(self) -> tuple[int, ...]:
        """Widths of the layers, from the input to the action."""
        return (self.layers[0].weight.shape[0], *(layer.weight.shape[1] for layer in self.layers))

    @property
    def observation_size(self) -> int:
        """Length O of an observation."""
        return self.part_size if self.columns is None else self.size

    @property
    def width(self) -> int:
        """Number H of recurrent units."""
        return 0 if self.units is None else self.units.from_state.weight.shape[0]

    @property
    def input_size(self) -> int:
        """Length I of the input: ``history`` parts."""
        return self.sizes[0] - self.width

    @property
    def part_size(self) -> int:
        """Length P of the part of one observation."""
        return self.input_size // self.history

    @property
    def state_size(self) -> int:
        """Length S of the state: the latest parts, if it stacks them, oldest first, then the recurrent units."""
        return (self.input_size if self.history > 1 else 0) + self.width

    @property
    def quantised(self) -> bool:
        """Whether it is int8."""
        return self.input_scale is not None

    def __call__(self, observations: np.ndarray) -> np.ndarray:
        """Actions ``(..., A)`` in the task's units at raw observations ``(..., O)``, for a policy without memory."""
        return self.act(self.normalise(self.read(observations)))

    def step(
        self, observations: np.ndarray, starts: np.ndarray | bool, state: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Actions at the next observations of episodes, and the next state ``(..., S)``.

        Args:
            observations: ``(..., O)``.
            starts: whether they are the first of their episodes ``(...)``.
            state: from the previous step ``(..., S)``; ignored where an episode starts.
        """
        starts, inputs = np.asarray(starts, bool)[..., None], self.read(observations)
        kept, hidden = np.split(state, [self.state_size - self.width], axis=-1)
        if self.history > 1:
            later = np.concatenate((kept[..., self.part_size :], inputs), axis=-1)
            inputs = kept = np.where(starts, np.tile(inputs, self.history), later)
        seen = self.normalise(inputs)
        if self.units is not None:
            hidden = np.where(starts, np.float32(0), hidden)
            before, read = np.split(self._read_in(np.concatenate((hidden, seen), axis=-1)), [self.width], axis=-1)
            hidden = self.units(read, before, hidden)
            seen = np.concatenate((hidden, seen), axis=-1)
        return self.act(seen), np.concatenate((kept, hidden), axis=-1)

    def placed(self, histories: np.ndarray, state: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The latest parts ``(n, P)``, and the state ``(n, S)`` before them, for inputs ``histories (n, I)``."""
        state, part = state.copy(), self.part_size
        state[:, part : self.input_size] = histories[:, :-part]
        return histories[:, -part:], state

    def act(self, hidden: np.ndarray) -> np.ndarray:
        """Actions ``(..., A)`` from the inputs of the first layer."""
        hidden = self._read_in(hidden)
        for layer in self.layers[:-1]:
            hidden = self.activate(linear(layer, hidden))
            if self.quantised:
                hidden = self._to_levels(hidden * np.float32(LEVELS) if self.tanh else hidden)
        actions = linear(self.layers[-1], hidden)
        if self.squash:
            actions = np.tanh(actions) * ((self.high - self.low) / 2) + (self.high + self.low) / 2
        return np.clip(actions, self.low, self.high)

    def read(self, observations: np.ndarray) -> np.ndarray:
        """Inputs ``(..., I)`` from raw observations ``(..., O)``."""
        observations = np.asarray(observations, np.float32)
        return observations if self.columns is None else observations[..., self.columns]

    def normalise(self, inputs: np.ndarray) -> np.ndarray:
        """Normalise network inputs ``(..., I)``."""
        if self.normaliser is None:
            return inputs
        mean, rest, inverse = self.normaliser
        return np.clip((inputs - mean - rest) * inverse, np.float32(-CLIP), np.float32(CLIP))

    def activate(self, hidden: np.ndarray) -> np.ndarray:
        """The activation between layers."""
        return np.tanh(hidden) if self.tanh else np.maximum(hidden, 0)

    def _read_in(self, inputs: np.ndarray) -> np.ndarray:
        """Inputs of the first layer ``(..., H + I)``, quantised if the policy is int8."""
        return inputs if self.input_scale is None else self._to_levels(inputs * self.input_scale)

    @staticmethod
    def _to_levels(values: np.ndarray) -> np.ndarray:
        """Round to int8, half away from zero; returned as float32, in which sums of their products are exact."""
        return np.trunc(np.clip(values, -LEVELS, LEVELS) + np.copysign(np.float32(0.5), values))


def flatten(policy: DeployedPolicy, size: int = 0) -> PlainPolicy:
    """The arrays of a deployed policy, float32.

    Args:
        policy: the module.
        size: length of an observation, if the policy reads only some columns.

    Raises:
        PolicyKDError: it is not an MLP with ReLU or tanh, or its actions are discrete.
    """
    if policy.choices is not None:
        raise PolicyKDError("export: C and NumPy support only continuous actions: use onnx or torchscript")
    linears = [module for module in policy.network if isinstance(module, nn.Linear)]
    between = {type(module) for module in policy.network if not isinstance(module, nn.Linear)}
    if not between <= {nn.ReLU} and not between <= {nn.Tanh}:
        names = ", ".join(sorted(kind.__name__ for kind in between))
        raise PolicyKDError(f"export: C and NumPy support only ReLU and tanh, not {names}: use onnx")
    layers = tuple(as_layer(linear.weight, linear.bias) for linear in linears)
    normaliser = None
    if policy.normalises:
        mean = policy.observation_mean.numpy()
        rounded = mean.astype(np.float32)  # with its rounding error, a mean far from 0 needs no float64 to be accurate
        normaliser = np.stack((rounded, mean - rounded, 1 / policy.observation_std.numpy())).astype(np.float32)
    columns, bounds = as_columns(policy.columns), (policy.low.numpy(), policy.high.numpy())
    return PlainPolicy(layers, nn.Tanh in between, policy.squash, *bounds, normaliser, columns=columns, size=size)


def as_columns(columns: list[int] | None) -> np.ndarray | None:
    """The columns ``(I,)`` in C's smallest integer type that holds them."""
    return None if columns is None else np.array(columns, np.int16 if max(columns) < 2**15 else np.int32)


def as_layer(weight: Tensor, bias: Tensor) -> Layer:
    """A layer from torch's weights ``(out, in)`` and biases."""
    return Layer(np.ascontiguousarray(weight.numpy().T), bias.numpy().copy())


def linear(layer: Layer, hidden: np.ndarray) -> np.ndarray:
    """Outputs ``(..., out)`` of a layer at inputs ``(..., in)``, before the activation."""
    sums = hidden @ layer.weight.astype(np.float32, copy=False)
    return (sums if layer.scale is None else sums * layer.scale) + layer.bias
