"""What every kind of teacher becomes: a policy on raw observations, whatever file or object it came from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn

from policykd.core.errors import PolicyKDError


@dataclass(frozen=True)
class Policy:
    """A policy that does not learn any more; its normaliser, where it has one, is inside."""

    source: str
    """Where it came from, as text."""
    observation_size: int | None
    """Length O of an observation; None where only the task can tell."""
    action_size: int
    """Length A of an action."""
    gaussian: Callable[[Tensor], tuple[Tensor, Tensor | None]]
    """Raw observations ``(B, O)`` to means ``(B, A)`` and standard deviations ``(B, A)`` or None, in [-1, 1] units and
    before tanh where ``squashed``."""
    squashed: bool = False
    """Whether an action is tanh of the Gaussian (SAC, TQC)."""
    value: Callable[[Tensor], Tensor] | None = None
    """Raw observations ``(B, O)`` to values ``(B,)`` in the task's units of reward."""
    low: np.ndarray | None = None
    """Smallest action ``(A,)`` of the task it was trained on, where the source says."""
    high: np.ndarray | None = None
    """Largest action ``(A,)``."""
    network: nn.Module | None = None
    """Its parameters, where it has any that torch can see."""
    missing_normaliser: bool = False
    """Whether it was trained on normalised observations and the statistics are not there."""

    def changed(self, **changes: object) -> Policy:
        """A copy with some fields changed."""
        return replace(self, **changes)  # type: ignore[arg-type]


def freeze(network: nn.Module) -> nn.Module:
    """No gradient, no dropout, no running statistics that move."""
    for parameter in network.parameters():  # a TorchScript module has no requires_grad_ of its own
        parameter.requires_grad_(False)
    return network.eval()


def parse_bounds(space: object, size: int) -> tuple[np.ndarray, np.ndarray] | None:
    """Bounds ``(A,)`` of an action space as SB3 writes it into its JSON; None where the text has none to trust."""
    if not isinstance(space, dict):
        return None
    bounds = []
    for name in ("low", "high"):
        text = str(space.get(name, "")).replace("[", " ").replace("]", " ").replace(",", " ")
        try:
            values = np.array(text.split(), np.float32)
        except ValueError:  # a long array is cut short with dots
            return None
        if values.shape != (size,) or not np.isfinite(values).all():
            return None
        bounds.append(values)
    return bounds[0], bounds[1]


def to_unit(low: np.ndarray, high: np.ndarray, device: torch.device) -> tuple[Tensor, Tensor]:
    """Middle and half range ``(A,)`` that bring actions of a task to [-1, 1]; an action that cannot move comes as 0."""
    if (high < low).any():
        raise PolicyKDError(f"teacher: action bounds {low} to {high} are empty")
    half = np.where(high > low, (high - low) / 2, 1).astype(np.float32)
    return torch.from_numpy(((high + low) / 2).astype(np.float32)).to(device), torch.from_numpy(half).to(device)
