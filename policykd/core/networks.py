"""Networks of many learners: one row of parameters per learner, one call for all of them.

Parameters of ``R`` networks of one shape are one tensor ``(R, P)``. A row of an MLP holds, layer after layer, weight
``(in, out)`` and bias ``(out,)`` of one network. Adam, target networks, checkpoints and copies then need one
operation on one tensor, whatever the number of layers and learners.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from policykd import native
from policykd.core.errors import PolicyKDError
from policykd.core.normaliser import RunningMeanStd

Activation = Literal["relu", "tanh", "elu"]
ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": torch.relu,
    "tanh": torch.tanh,
    "elu": torch.nn.functional.elu,
}
"""The smooth one is ELU rather than SiLU, since its derivative follows from its output and nothing else is kept."""


class Network(Protocol):
    """Interface of a network: each learner's parameters are one row, and one call computes all rows."""

    @property
    def parameter_count(self) -> int:
        """Length ``P`` of one row."""

    def initialise(self, generator: np.random.Generator) -> Tensor:
        """Draw one row ``(P,)``, float32, from ``generator`` alone."""

    def __call__(self, rows: Tensor, inputs: Tensor) -> Tensor:
        """Apply network ``r`` to inputs ``r``: ``(R, P)`` and ``(R, B, in)`` to ``(R, B, out)``."""


@dataclass(frozen=True)
class MLP:
    """A multi-layer perceptron, a ``Network``.

    Args:
        sizes: input width, hidden widths, output width, e.g. ``(17, 64, 64, 6)``.
        squash: apply tanh to the output, as actors with bounded actions do.
        activation: after every hidden layer.
        layer_norm: normalise every hidden layer before its activation (Ba et al. 2016), as ``torch.nn.LayerNorm``
            does, with a scale and a shift per unit behind the layer's bias in the row.

    Raises:
        PolicyKDError: fewer than two widths, a width below 1, or an unknown activation.
    """

    sizes: tuple[int, ...]
    squash: bool = False
    activation: Activation = "relu"
    layer_norm: bool = False

    def __post_init__(self) -> None:
        """Refuse invalid sizes and activations."""
        object.__setattr__(self, "sizes", tuple(self.sizes))  # hashable, as a key of caches
        if len(self.sizes) < 2 or min(self.sizes) < 1:
            raise PolicyKDError(f"MLP: sizes={self.sizes} must be at least two positive widths, input to output")
        if self.activation not in ACTIVATIONS:
            known = ", ".join(ACTIVATIONS)
            raise PolicyKDError(f"MLP: activation={self.activation!r} is unknown: use one of {known}")

    @property
    def layers(self) -> list[tuple[int, int]]:
        """Input and output width of every linear layer."""
        return list(pairwise(self.sizes))

    @property
    def parameter_count(self) -> int:
        """Length ``P`` of one row."""
        norms = 2 * sum(self.sizes[1:-1]) if self.layer_norm else 0
        return sum(inputs * outputs + outputs for inputs, outputs in self.layers) + norms

    def initialise(self, generator: np.random.Generator) -> Tensor:
        """Draw one row ``(P,)`` as ``torch.nn.Linear`` draws: weights and biases from U(-1/sqrt(in), 1/sqrt(in))."""
        parts = []
        for inputs, outputs in self.layers:
            bound = 1.0 / math.sqrt(inputs)
            parts.append(generator.uniform(-bound, bound, inputs * outputs + outputs))
        return self._row(parts)

    def initialise_orthogonal(self, generator: np.random.Generator, gains: Sequence[float]) -> Tensor:
        """Draw one row ``(P,)``: orthogonal weights (Saxe et al. 2014) times the gain of each layer, and no bias."""
        parts = []
        for (inputs, outputs), gain in zip(self.layers, gains, strict=True):
            drawn = generator.standard_normal((max(inputs, outputs), min(inputs, outputs)))
            q, r = np.linalg.qr(drawn)
            q *= np.sign(np.diag(r))  # otherwise QR would not sample rotations uniformly
            parts.append(np.concatenate((gain * (q if inputs >= outputs else q.T).ravel(), np.zeros(outputs))))
        return self._row(parts)

    def _row(self, linear: list[np.ndarray]) -> Tensor:
        """Assemble a row from the linear layers' parameters; layer norms start with scale 1 and shift 0."""
        parts = []
        for index, (layer, width) in enumerate(zip(linear, self.sizes[1:], strict=True)):
            normalised = self.layer_norm and index < len(linear) - 1
            parts += [layer, np.ones(width), np.zeros(width)] if normalised else [layer]
        return torch.from_numpy(np.concatenate(parts).astype(np.float32))

    def unpack(self, rows: Tensor) -> list[tuple[Tensor, ...]]:
        """View rows ``(R, P)`` layer by layer.

        Returns:
            ``(weight (R, in, out), bias (R, 1, out))`` per layer; with ``layer_norm`` those of hidden layers are
            followed by ``scale (R, 1, out)`` and ``shift (R, 1, out)``.
        """
        count, shapes = rows.shape[0], []
        for index, (inputs, outputs) in enumerate(self.layers):
            vectors = 3 if self.layer_norm and index < len(self.layers) - 1 else 1
            shapes.append([(inputs, outputs), *[(1, outputs)] * vectors])
        # One split, whose backward is one concatenation; slicing would fill and add a tensor per layer.
        parts = iter(rows.split([height * width for layer in shapes for height, width in layer], dim=1))
        return [tuple(next(parts).view(count, *shape) for shape in layer) for layer in shapes]

    def __call__(self, rows: Tensor, inputs: Tensor) -> Tensor:
        """Apply network ``r`` to inputs ``r``: ``(R, P)`` and ``(R, B, in)`` to ``(R, B, out)``."""
        outputs = native.mlp(rows, inputs, self.sizes, self.activation, self.layer_norm)
        if outputs is None:
            return self.activations(rows, inputs)[-1]
        return outputs.tanh() if self.squash else outputs

    def activations(self, rows: Tensor, inputs: Tensor) -> list[Tensor]:
        """Outputs of every layer, computed by torch: hidden features, and last the network's output.

        Args:
            rows: parameters ``(R, P)``.
            inputs: ``(R, B, in)``.

        Returns:
            ``(R, B, width)`` for every hidden layer, after its activation, and ``(R, B, out)``.
        """
        *hidden_layers, (weight, bias) = self.unpack(rows)
        hidden, found = inputs, []
        for hidden_weight, hidden_bias, *norm in hidden_layers:
            hidden = torch.baddbmm(hidden_bias, hidden, hidden_weight)
            if norm:
                scale, shift = norm
                hidden = torch.nn.functional.layer_norm(hidden, hidden.shape[-1:]) * scale + shift
            hidden = ACTIVATIONS[self.activation](hidden)
            found.append(hidden)
        outputs = torch.baddbmm(bias, hidden, weight)
        return [*found, outputs.tanh() if self.squash else outputs]


class PolicyOutput(NamedTuple):
    """Output of K policies at observations ``(K, B, O)``."""

    actions: Tensor
    """Deterministic actions ``(K, B, A)`` in [-1, 1]; with discrete actions the mode, one-hot."""
    mean: Tensor | None = None
    """Means ``(K, B, A)`` of Gaussian policies, before any squashing; None where policies are deterministic."""
    std: Tensor | None = None
    """Standard deviations ``(K, B, A)`` of the same Gaussians."""
    logits: Tensor | None = None
    """Logits ``(K, B, A)`` of categorical policies; None for continuous actions."""

    @staticmethod
    def categorical(logits: Tensor) -> PolicyOutput:
        """Categorical policies with these logits ``(..., A)``."""
        return PolicyOutput(one_hot(logits), logits=logits)

    def map(self, function: Callable[[Tensor], Tensor]) -> PolicyOutput:
        """Apply ``function`` to every tensor."""
        return PolicyOutput(*[None if part is None else function(part) for part in self])  # type: ignore[arg-type]


def one_hot(scores: Tensor) -> Tensor:
    """One-hot argmax of each row of ``(..., A)``, the first in a tie; NaN where scores are NaN."""
    place = scores.argmax(-1, keepdim=True)
    return torch.zeros_like(scores).scatter(-1, place, 1.0 + 0.0 * scores.detach().gather(-1, place))


Loss = Callable[[Tensor], tuple[Tensor, dict[str, Tensor]]]
"""Parameters ``(R, P)`` to losses ``(R,)`` and diagnostics."""


def gradient(loss: Loss, rows: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """Gradient ``(R, P)`` of the summed losses ``(R,)``, and the diagnostics.

    Rows are independent, so the gradient of the sum is, for each row, the gradient of its own loss.
    """
    if torch.compiler.is_compiling():  # the compiler traces functional gradients, not autograd's engine

        def total(parameters: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
            losses, info = loss(parameters)
            return losses.sum(), info

        return torch.func.grad(total, has_aux=True)(rows)
    with torch.enable_grad():
        leaf = rows.detach().requires_grad_()
        losses, info = loss(leaf)
        # Of the sum: for the gradient of a vector, torch imports its compiler's shapes and sympy, which takes a second.
        (result,) = torch.autograd.grad(losses.sum(), leaf)
    return result, info


class Adam:
    """Adam (Kingma & Ba 2015, algorithm 1) over rows of parameters, with torch's defaults.

    All state is in plain tensors, so that one optimiser serves all learners, can be compiled, and is easy to save.
    """

    def __init__(self, rows: Tensor, betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8) -> None:
        self.exp_avg = torch.zeros_like(rows)
        self.exp_avg_sq = torch.zeros_like(rows)
        self.steps = torch.zeros((), dtype=rows.dtype, device=rows.device)
        self.betas, self.eps = betas, eps
        self.mask: Tensor | None = None
        """1 for trained parameters ``(R, P)``, 0 for frozen ones; None trains all."""

    def count_by_row(self) -> None:
        """Switch to a separate step count per row, ``(R, 1)``."""
        self.steps = self.steps.expand(len(self.exp_avg), 1).clone()

    def steps_of(self, row: int) -> float:
        """Number of steps taken by a row."""
        return float(self.steps[row] if self.steps.ndim else self.steps)

    def step(self, rows: Tensor, gradients: Tensor, learning_rate: float | Tensor) -> None:
        """Move ``rows`` in place by one step along ``-gradients`` (both ``(R, P)``).

        Args:
            rows: parameters.
            gradients: their gradients.
            learning_rate: a number or a tensor of one, or one per row, ``(R, 1)``.

        Raises:
            ValueError: the learning rates have another shape.
        """
        if isinstance(learning_rate, Tensor) and learning_rate.shape not in ((), (len(rows), 1)):
            raise ValueError(f"learning rates must be one number or ({len(rows)}, 1), not {learning_rate.shape}")
        self.steps.add_(1)
        if self.mask is not None:
            gradients = gradients * self.mask
        # Compiled, the lines below become one loop as fast as the kernel.
        if not torch.compiler.is_compiling() and rows.stride(-1) == 1 and self.steps.ndim == 0:
            moments, steps, rate = (self.exp_avg, self.exp_avg_sq), self.steps, learning_rate
            if native.adam_(rows, *moments, gradients, steps=steps, learning_rate=rate, betas=self.betas, eps=self.eps):
                return
        beta1, beta2 = self.betas
        self.exp_avg.lerp_(gradients, 1 - beta1)
        self.exp_avg_sq.mul_(beta2).addcmul_(gradients, gradients, value=1 - beta2)
        # beta^steps as an exponential, since the compiler puts it into the loop over all parameters, where pow is slow.
        power1, power2 = (self.steps * math.log(beta1)).exp(), (self.steps * math.log(beta2)).exp()
        step_size = (1 - power1).reciprocal() * learning_rate  # rounds the same for numbers and tensors
        denominator = self.exp_avg_sq.sqrt().div_((1 - power2).sqrt()).add_(self.eps)
        rows.sub_(self.exp_avg.div(denominator).mul_(step_size))


def state_tensors(owner: object) -> dict[str, Tensor]:
    """All tensors of a learner or a distillation step by name, including those of its optimisers and statistics."""
    tensors: dict[str, Tensor] = {}
    for name, value in vars(owner).items():
        if isinstance(value, Tensor):
            tensors[name] = value
        elif isinstance(value, Adam | RunningMeanStd):
            tensors |= {f"{name}.{part}": tensor for part, tensor in state_tensors(value).items()}
    return tensors


def adams_of(*owners: object) -> list[Adam]:
    """The optimisers among the attributes of ``owners``, which may include None."""
    return [value for owner in owners if owner is not None for value in vars(owner).values() if isinstance(value, Adam)]


def load_state_tensors(owner: object, tensors: dict[str, Tensor]) -> None:
    """Copy saved tensors back in place; a single step count of Adam, as in older files, applies to every row.

    Raises:
        PolicyKDError: names, shapes or dtypes differ from ``owner``'s.
    """
    own = state_tensors(owner)

    def fits(name: str, saved: Tensor) -> bool:
        shape = saved.shape == own[name].shape or (name.endswith("steps") and not saved.ndim)
        return shape and saved.is_floating_point() == own[name].is_floating_point()

    if own.keys() != tensors.keys() or not all(fits(name, tensor) for name, tensor in tensors.items()):
        raise PolicyKDError(f"checkpoint: its tensors do not fit this {type(owner).__name__}")
    for name, tensor in own.items():
        tensor.copy_(tensors[name])
