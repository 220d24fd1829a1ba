"""What students learn: the squared distance of actions, and what methods of classification add to it.

The losses and helpers are those of ``policykd.distillation.supervised``, each applied to every student by
``torch.vmap``. Where a method uses labels, the teacher's action is the label.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from experiments.state_students.spec import WEIGHTS, Protocol
from experiments.state_students.stacked import Stacked
from policykd.distillation.divergences import action_mse
from policykd.distillation.schedules import cosine
from policykd.distillation.supervised.config import DiSKConfig, RIDConfig
from policykd.distillation.supervised.disk import GUIDE, Guide
from policykd.distillation.supervised.feature_maps import linear, two_layers
from policykd.distillation.supervised.fitnets import hint_loss
from policykd.distillation.supervised.method import STUDENT, WARM_UP, Phase
from policykd.distillation.supervised.rid import (
    FILTERS,
    FILTERS_WARM_UP,
    StudentSide,
    rid_distance,
    rid_loss,
)
from policykd.distillation.supervised.rkd import angle_loss, distance_loss
from policykd.distillation.supervised.vid import GaussianModel, vid_loss

LEAST_VARIANCE = 1e-4
"""Of a student's Gaussian, so that a perfect student has a finite likelihood."""


class Sizes(NamedTuple):
    """Widths of what is compared."""

    hidden: int
    """Of a student's last hidden layer."""
    features: int
    """Of the teacher's, as components."""
    actions: int


class Seen(NamedTuple):
    """What a loss may look at, of K students."""

    actions: Tensor
    """The students' ``(K, B, A)``."""
    hidden: Tensor
    """Their last hidden layers ``(K, B, w)``."""
    target: Tensor
    """The teacher's actions ``(K, B, A)``."""
    features: Tensor
    """Its hidden layer ``(K, B, C)``."""
    progress: float
    """Share of the students' passes that are done."""


class Plain:
    """The squared distance of actions alone, and the base of the others.

    Args:
        sizes: widths.
        seeds: of the students ``(K,)``.
        weight: of what a method adds, one per student ``(K,)``.
        protocol: how long and how much.
    """

    weights: tuple[float, ...] = (0.0,)

    def __init__(self, sizes: Sizes, seeds: Sequence[int], weight: Tensor, protocol: Protocol) -> None:
        self.sizes, self.seeds, self.weight, self.protocol = sizes, seeds, weight, protocol
        self.build()

    def build(self) -> None:
        """Make the method's modules: ``helpers`` learn with the student, ``others`` in passes of their own."""
        self.helpers: list[Stacked] = []
        self.others: list[Stacked] = []

    def plan(self, epochs: int) -> list[Phase]:
        """What every pass over the states does; the student learns in ``epochs`` of them."""
        return [STUDENT] * epochs

    def loss(self, phase: Phase, seen: Seen) -> Tensor:
        """The losses ``(K,)`` of what this phase trains."""
        return action_mse(seen.actions, seen.target).mean(1)


class Features(Plain, ABC):
    """The distance of actions, and a weight times a term on the last hidden layers."""

    weights = WEIGHTS

    def loss(self, phase: Phase, seen: Seen) -> Tensor:
        """The losses ``(K,)`` of the students."""
        return super().loss(phase, seen) + self.weight * self.term(seen)

    @abstractmethod
    def term(self, seen: Seen) -> Tensor:
        """The term ``(K,)``."""


class FitNets(Features):
    """A linear regressor of the teacher's hidden layer (Romero et al. 2015)."""

    def build(self) -> None:
        """The regressors learn with the students."""
        super().build()
        self.regressor = Stacked(lambda: linear(self.sizes.hidden, self.sizes.features), self.seeds)
        self.helpers = [self.regressor]

    def term(self, seen: Seen) -> Tensor:
        """The hint."""
        return torch.vmap(hint_loss)(self.regressor(_maps(seen.hidden)), _maps(seen.features))


class RKD(Features):
    """Distances and angles between states, angles twice as heavy (Park et al. 2019)."""

    def term(self, seen: Seen) -> Tensor:
        """Of the first states of a batch."""
        some = self.protocol.relations
        pair = seen.hidden[:, :some], seen.features[:, :some]
        return torch.vmap(distance_loss)(*pair) + 2 * torch.vmap(angle_loss)(*pair)


class VID(Features):
    """A Gaussian model of the teacher's hidden layer (Ahn et al. 2019)."""

    def build(self) -> None:
        """The models learn with the students."""
        super().build()
        self.model = Stacked(lambda: GaussianModel(self.sizes.hidden, self.sizes.features), self.seeds)
        self.helpers = [self.model]

    def term(self, seen: Seen) -> Tensor:
        """Its negative log-likelihood."""
        mean, variance = self.model(_maps(seen.hidden))
        return torch.vmap(vid_loss)(mean, variance, _maps(seen.features))


class RID(Features):
    """A filter of the teacher's hidden layer that tells its actions is copied (Dissanayake et al. 2025)."""

    def build(self) -> None:
        """Filters and heads learn in passes of their own, the students' side with the students."""
        super().build()
        (hidden, features, actions), self.config = self.sizes, RIDConfig()
        self.side = Stacked(lambda: StudentSide(torch.empty(1, hidden, 1)), self.seeds)
        self.filter = Stacked(lambda: two_layers(features, features, hidden), self.seeds)
        self.head = Stacked(
            lambda: nn.Sequential(nn.Flatten(), nn.ReLU(), nn.Linear(hidden, actions), nn.Tanh()), self.seeds
        )
        self.helpers, self.others = [self.side], [self.filter, self.head]

    def plan(self, epochs: int) -> list[Phase]:
        """Algorithm 1 with the package's defaults."""
        cycle, filters = self.config.cycle_epochs, round(self.config.filter_share * self.config.cycle_epochs)
        turn = [FILTERS] * filters + [STUDENT] * (cycle - filters)
        return [FILTERS_WARM_UP] * self.config.filter_warm_up_epochs + _in_turns(epochs, turn)

    def loss(self, phase: Phase, seen: Seen) -> Tensor:
        """Equation 10 for filters and heads, in the warm-up its first term alone; else the students' loss."""
        if phase == STUDENT:
            return super().loss(phase, seen)
        target = self.filter(_maps(seen.features))
        told = action_mse(self.head(target), seen.target).mean(1)
        if phase == FILTERS_WARM_UP:
            return told
        with torch.no_grad():
            own, sigma = self.side(_maps(seen.hidden))
        return told + torch.vmap(rid_distance)(own, target, sigma)

    def term(self, seen: Seen) -> Tensor:
        """Equation 12, of the filter as it is."""
        with torch.no_grad():
            target = self.filter(_maps(seen.features))
        own, sigma = self.side(_maps(seen.hidden))
        return torch.vmap(rid_loss)(own, target, sigma)


class DiSK(Plain):
    """A guide takes hopeless states off the student, on a budget (Kag et al. 2023).

    The student's answer is a Gaussian around its action. As DiSK adds the guide's g to the probabilities of some
    classes, g is added here to its density everywhere in the box of actions.
    """

    def build(self) -> None:
        """The guides learn in passes of their own."""
        super().build()
        self.config = DiSKConfig()
        self.guide = Stacked(lambda: Guide(self.sizes.features, self.config.guide_width), self.seeds)
        self.others = [self.guide]

    def plan(self, epochs: int) -> list[Phase]:
        """The students without help, the guides alone, then both in turns, with the package's defaults."""
        config = self.config
        warm = min(epochs, config.warm_up_epochs)
        turn = [STUDENT] * config.student_passes + [GUIDE] * config.guide_passes
        return [WARM_UP] * warm + [GUIDE] * config.guide_warm_up_epochs + _in_turns(epochs - warm, turn)

    def loss(self, phase: Phase, seen: Seen) -> Tensor:
        """Students: the helped likelihood and the plain one. Guides: the helped one, and help beyond the budget."""
        if phase == WARM_UP:
            return super().loss(phase, seen)
        config, (surprise, density) = self.config, likelihood(seen.actions, seen.target)
        with torch.set_grad_enabled(phase == GUIDE):
            help = self.guide(seen.features)
        soft = config.soft_weight * scaffolded_nll(density, help, self.sizes.actions).mean(1)
        if phase == STUDENT:
            return soft - config.hard_weight * density.mean(1)
        budget, penalty = (
            last + (first - last) * cosine(seen.progress) for first, last in (config.budget, config.penalty)
        )
        helped = (help * surprise.clamp_max(config.largest_cross_entropy)).mean(1)
        return soft + penalty * (helped - budget).relu()


def likelihood(actions: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """How well Gaussians around the students' actions tell the teacher's, at each state.

    Their variance, one number per student, is the likeliest for the batch, and no gradient flows through it.

    Args:
        actions: ``(K, B, A)``.
        target: ``(K, B, A)``.

    Returns:
        the negative log-likelihood above its least, and the log-density, both ``(K, B)``.
    """
    squared, size = action_mse(actions, target), actions.shape[2]
    variance = (squared.detach().mean(1, keepdim=True) / size).clamp_min(LEAST_VARIANCE)
    surprise = squared / (2 * variance)
    return surprise, -surprise - size / 2 * (2 * math.pi * variance).log()


def scaffolded_nll(density: Tensor, help: Tensor, size: int) -> Tensor:
    """``-log((p + g) / (1 + g V))``: g is added to a density everywhere in a box of volume V, and it sums to 1 again.

    It is ``disk.scaffolded_loss`` for a density in the place of probabilities, and for a target that is one action.

    Args:
        density: log p at the target ``(K, B)``.
        help: g ``(K, B)`` in (0, 1).
        size: A, of the box [-1, 1]^A.

    Returns:
        ``(K, B)``.
    """
    return torch.log1p(help * 2.0**size) - torch.logaddexp(density, help.log())


def _maps(vectors: Tensor) -> Tensor:
    """Vectors ``(K, B, D)`` as maps ``(K, B, D, 1)``."""
    return vectors.unsqueeze(-1)


def _in_turns(epochs: int, turn: Sequence[Phase]) -> list[Phase]:
    """Turns, one after the other, until the students have had so many passes, the last of which ends the plan."""
    plan: list[Phase] = []
    while plan.count(STUDENT) < epochs:
        plan.append(turn[len(plan) % len(turn)])
    return plan


METHODS: dict[str, type[Plain]] = {
    **{"plain": Plain, "retrieval": Plain},
    **{"fitnets": FitNets, "rkd": RKD, "vid": VID, "rid": RID, "disk": DiSK},
}
"""What each kind of student learns; "retrieval" reads more and learns the same."""
