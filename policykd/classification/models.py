"""Small networks for images and vectors, by name; any other ``torch.nn.Module`` will do as well."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from policykd.core.errors import PolicyKDError
from policykd.core.memory import require_memory


class MLP(nn.Module):
    """Hidden layers with ReLU; features are ``hidden.0``, ``hidden.1``, ... (each after its ReLU).

    Args:
        inputs: numbers per example, however they are laid out.
        widths: of the hidden layers.
        classes: C.
    """

    def __init__(self, inputs: int, widths: Sequence[int], classes: int) -> None:
        super().__init__()
        sizes = [inputs, *widths]
        self.hidden = nn.Sequential(*[nn.Sequential(nn.Linear(a, b), nn.ReLU()) for a, b in pairwise(sizes)])
        self.classifier = nn.Linear(sizes[-1], classes)

    def forward(self, inputs: Tensor) -> Tensor:
        """Logits ``(B, C)``."""
        return self.classifier(self.hidden(inputs.flatten(1)))


class CNN(nn.Module):
    """Blocks of a 3x3 convolution, ReLU and halving; then one hidden layer.

    Features are ``blocks.0``, ``blocks.1``, ... (each after its halving) and ``hidden``.

    Args:
        shape: (channels, height, width) of the images.
        widths: channels of each block; the last number is the width of the hidden layer.
        classes: C.
    """

    def __init__(self, shape: Sequence[int], widths: Sequence[int], classes: int) -> None:
        super().__init__()
        *channels, hidden = widths
        sizes = [shape[0], *channels]
        self.blocks = nn.Sequential(
            *[nn.Sequential(nn.Conv2d(a, b, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)) for a, b in pairwise(sizes)]
        )
        with torch.no_grad():
            flat = self.blocks(torch.zeros(1, *shape)).numel()
        self.hidden = nn.Sequential(nn.Flatten(), nn.Linear(flat, hidden), nn.ReLU())
        self.classifier = nn.Linear(hidden, classes)

    def forward(self, images: Tensor) -> Tensor:
        """Logits ``(B, C)``."""
        return self.classifier(self.hidden(self.blocks(images)))


def make_model(kind: str, widths: Sequence[int], shape: Sequence[int], classes: int, seed: int) -> nn.Module:
    """A network whose first weights are drawn by ``seed``.

    Args:
        kind: "mlp" or "cnn".
        widths: see ``MLP`` and ``CNN``.
        shape: of one example.
        classes: C.
        seed: of the first weights.

    Raises:
        PolicyKDError: an unknown kind, too few widths, or a CNN for what are no images.
    """
    if kind not in ("mlp", "cnn"):
        raise PolicyKDError(f'model: {kind!r} is unknown: use "mlp" or "cnn"')
    if not widths or min(widths) < 1:
        raise PolicyKDError(f"model: {kind} needs one or more positive widths, got {list(widths)}")
    sizes = (math.prod(shape), *widths, classes)
    numbers = sum(a * b for a, b in pairwise(sizes if kind == "mlp" else sizes[1:]))
    require_memory(4 * 5 * numbers, f"a {kind} of widths {list(widths)} and what trains it", "its widths")
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        if kind == "mlp":
            return MLP(int(torch.Size(shape).numel()), widths, classes)
        if len(shape) != 3 or min(shape[1:]) < 2 ** (len(widths) - 1):
            raise PolicyKDError(f"model: a cnn of widths {list(widths)} cannot read examples of shape {tuple(shape)}")
        return CNN(shape, widths, classes)


def parameters(model: nn.Module) -> int:
    """Numbers that a network learns."""
    return sum(parameter.numel() for parameter in model.parameters())
