"""Cloning on fixed states: how much of a teacher's action a network of some width learns from what it sees."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from policykd.core.compute import one_thread
from policykd.core.networks import MLP, Adam, gradient
from policykd.core.seeding import stream

BATCH = 256


@dataclass(frozen=True)
class Student:
    """What the student is."""

    net_arch: tuple[int, ...]
    activation: Literal["relu", "tanh"]
    learning_rate: float
    normalize: bool
    """Whether it sees observations normalised."""


class Fit(NamedTuple):
    """How cloning went."""

    r2: float
    """Share of the variance of the actions that is explained at states of other episodes; below 0 where it is worse
    than their mean; minus infinity where it is not a number."""
    losses: np.ndarray
    """Mean squared distance of every step's minibatch ``(updates,)``."""
    gradient_norms: np.ndarray
    """Euclidean norm of the gradient of every step ``(updates,)``."""


def clone(
    inputs: np.ndarray, actions: np.ndarray, held_out: np.ndarray, student: Student, updates: int, seed: int = 0
) -> Fit:
    """Fit actions ``(n, A)`` to inputs ``(n, O)`` by Adam; measure where ``held_out (n,)``."""
    if student.normalize:
        inputs = normalised(inputs, ~held_out)
    x, y = (torch.from_numpy(np.ascontiguousarray(a, np.float32)) for a in (inputs, actions))
    train, test = (torch.from_numpy(np.flatnonzero(rows)) for rows in (~held_out, held_out))
    network = MLP((x.shape[1], *student.net_arch, y.shape[1]), activation=student.activation)
    generator = stream(seed, 0, "learner")
    rows = network.initialise(generator).unsqueeze(0)
    adam, losses, norms = Adam(rows), np.zeros(updates), np.zeros(updates)
    with one_thread():
        for i in range(updates):
            batch = train[torch.from_numpy(generator.integers(len(train), size=BATCH))]
            found, info = gradient(_squared(network, x[batch].unsqueeze(0), y[batch].unsqueeze(0)), rows)
            losses[i], norms[i] = float(info["loss"]), float(found.norm())
            with torch.no_grad():
                adam.step(rows, found, student.learning_rate)
        with torch.no_grad():
            predicted = network(rows, x[test].unsqueeze(0))[0].clamp(-1, 1).numpy()
    return Fit(r2(predicted, y[test].numpy()), losses, norms)


def normalised(inputs: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Inputs ``(n, O)`` by the statistics of some rows, as a student with a normaliser sees them."""
    return np.clip((inputs - inputs[rows].mean(0)) / np.sqrt(inputs[rows].var(0) + 1e-8), -10, 10)


def r2(predicted: np.ndarray, actions: np.ndarray) -> float:
    """1 - (squared distance) / (variance), over all dimensions of ``(n, A)``."""
    error, spread = np.square(predicted - actions).sum(), np.square(actions - actions.mean(0)).sum()
    return float(1 - error / max(spread, 1e-12)) if np.isfinite(error) else -np.inf


def stacked(observations: np.ndarray, episodes: np.ndarray, last: int) -> np.ndarray:
    """The last so many observations of the same episode beside one another, the first repeated: ``(n, last * O)``."""
    index = np.arange(len(observations))
    first = np.searchsorted(episodes, episodes)  # episodes come in order
    return np.concatenate([observations[np.maximum(index - back, first)] for back in range(last)], axis=1)


def _squared(network: MLP, inputs: Tensor, actions: Tensor) -> Callable[[Tensor], tuple[Tensor, dict[str, Tensor]]]:
    def loss(rows: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        error = (network(rows, inputs) - actions).square().mean((1, 2))
        return error, {"loss": error.detach()}

    return loss
