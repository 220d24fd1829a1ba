"""Behavioural cloning on fixed states: how much of a teacher's actions a network learns from its inputs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from policykd.core.compute import one_thread
from policykd.core.networks import Adam, Loss, gradient
from policykd.core.seeding import stream
from policykd.distillation.divergences import divergence_of
from policykd.distillation.labels import Labels
from policykd.distillation.teaching_config import TAUGHT_CONFIGS
from policykd.learners import LEARNERS, Learner

BATCH = 256
STILL = 1e-3
"""Standard deviation of actions, in units of half their range, below which they count as constant."""


@dataclass(frozen=True)
class Student:
    """Architecture and learning rate of a student."""

    net_arch: tuple[int, ...]
    activation: Literal["relu", "tanh"]
    learning_rate: float
    normalize: bool
    """Whether it normalises observations."""
    backbone: str = "ppo"
    bounds: tuple[tuple[float, ...], tuple[float, ...]] | None = None
    """Smallest and largest action ``(A,)`` of the task, if its network outputs actions in these units (ppo); None if in
    [-1, 1]."""
    discrete: bool = False
    """Whether actions are discrete."""

    def new(self, sizes: tuple[int, int], generator: np.random.Generator) -> Learner:
        """A learner initialised as in ``policykd distill``, with sizes ``(O, A)``, but without its own normaliser."""
        kind = TAUGHT_CONFIGS[self.backbone]
        wanted: dict[str, Any] = {
            "net_arch": self.net_arch,
            "activation_fn": self.activation,
            "normalize_observation": False,
        }
        config = kind(**{name: value for name, value in wanted.items() if name in kind.__dataclass_fields__})
        low, high = (None, None) if self.discrete else (np.asarray(b, np.float32) for b in self.bounds or (-1.0, 1.0))
        return LEARNERS[self.backbone].make(*sizes, config, [generator], "cpu", low, high)


class Fit(NamedTuple):
    """Result of cloning."""

    r2: float
    """Fraction of the actions' variance explained at states of held-out episodes; below 0 if worse than their mean,
    minus infinity if not a number."""
    losses: np.ndarray
    """Mean loss of every step's minibatch ``(updates,)``."""
    gradient_norms: np.ndarray
    """Euclidean norm of the gradient of every step ``(updates,)``."""

    @property
    def explained(self) -> float:
        """``r2``, at least 0: how much worse than the mean it is says nothing about what could be learnt."""
        return max(self.r2, 0.0)


def clone(
    inputs: np.ndarray, actions: np.ndarray, held_out: np.ndarray, student: Student, updates: int, seed: int = 0
) -> Fit:
    """Fit a student to actions ``(n, A)`` at inputs ``(n, O)`` as bc does; evaluate it where ``held_out (n,)``."""
    if student.normalize:
        inputs = normalised(inputs, ~held_out)
    x, y = (torch.from_numpy(np.ascontiguousarray(a, np.float32)).unsqueeze(0) for a in (inputs, actions))
    train, test = (torch.from_numpy(np.flatnonzero(rows)) for rows in (~held_out, held_out))
    generator = stream(seed, 0, "learner")
    learner = student.new((x.shape[2], y.shape[2]), generator)
    adam, losses, norms = Adam(learner.actor), np.zeros(updates), np.zeros(updates)
    with one_thread():
        for i in range(updates):
            batch = train[torch.from_numpy(generator.integers(len(train), size=BATCH))]
            found, info = gradient(_distance(learner, x[:, batch], y[:, batch]), learner.actor)
            losses[i], norms[i] = float(info["loss"]), float(found.norm())
            with torch.no_grad():
                adam.step(learner.actor, found, student.learning_rate)
        with torch.no_grad():
            said = learner.outputs(learner.actor, x[:, test])
            predicted = said.actions.clamp(-1, 1) if said.logits is None else said.logits.softmax(-1)
    return Fit(r2(predicted[0].numpy(), y[0, test].numpy()), losses, norms)


def normalised(inputs: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Normalise inputs ``(n, O)`` by the statistics of some rows, as a student's normaliser does."""
    return np.clip((inputs - inputs[rows].mean(0)) / np.sqrt(inputs[rows].var(0) + 1e-8), -10, 10)


def r2(predicted: np.ndarray, actions: np.ndarray) -> float:
    """R^2 = 1 - (squared error) / (variance), over all dimensions of ``(n, A)``.

    0 for constant actions, which have no variance to explain.
    """
    error, spread = np.square(predicted - actions).sum(), np.square(actions - actions.mean(0)).sum()
    if not np.isfinite(error):
        return -np.inf
    return 0.0 if spread < STILL**2 * actions.size else float(1 - error / spread)


def _distance(learner: Learner, inputs: Tensor, actions: Tensor) -> Loss:
    """The default loss of bc: squared error of actions, or negative log-likelihood of discrete ones."""
    divergence = divergence_of("nll" if learner.discrete else "action_mse", taught=True)
    target = Labels.of_actions(actions, learner.discrete, std=1.0).policy

    def loss(actor: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        error = divergence(learner.outputs(actor, inputs), target).mean(1)
        return error, {"loss": error.detach()}

    return loss
