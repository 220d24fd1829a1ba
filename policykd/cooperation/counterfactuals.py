"""Quintessential counterfactuals: instances moved so that a teacher is surer of the class that they have.

Livanos, Davidson & Wong, AAAI 2024 (arXiv 2402.05942). With f the teacher's probabilities, y the true class as a
one-hot vector and everything in widths of the teacher's data:

    target  y' = f(x) + alpha * (y - f(x))
    search  min over x' of  |f(x') - y'|^2 + sparsity * |x' - x|_1,   x' in the box of the teacher's own rows
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch

from policykd.cooperation.config import SearchConfig
from policykd.cooperation.owners import Owner
from policykd.cooperation.torch_classifier import TorchClassifier

CERTAIN = 0.999
"""A teacher as sure as this of a row need not be surer of its counterfactual, only as sure."""
DECIMALS = 6
"""Rows that agree in so many decimals, in widths of the teacher's data, count as the same."""
KNOWN = 1e9
"""Loss of a point that equals an own row, beside any other: it is taken only while there is no new one."""
MOVED_SHARE, NOISE = 0.3, 0.1
"""Of a random step of the model-free search: the share of features that move, and how far (standard deviation)."""


class Space:
    """Where a teacher's counterfactuals may lie: the box of its own rows, in which each feature goes from 0 to 1.

    Args:
        rows: the teacher's own ``(n, F)``.
        shared: columns that the student has, too; the others stay where they are.
        groups: columns that are one-hot together.
    """

    def __init__(self, rows: np.ndarray, shared: np.ndarray, groups: Sequence[np.ndarray]) -> None:
        self.rows, self.shared = rows, shared
        self.low, self.high = rows.min(0), rows.max(0)
        varies = self.high > self.low
        self.width = np.where(varies, self.high - self.low, 1.0)
        self.movable = np.zeros(rows.shape[1], bool)
        self.movable[shared] = varies[shared]
        self.whole = self.movable & (rows == np.round(rows)).all(0)
        self.binary = self.movable & ((rows == self.low) | (rows == self.high)).all(0)
        # A column that is constant in the teacher's data is no choice: its box is one point.
        self.groups = [free for group in groups if len(free := group[self.movable[group]])]
        self.known = set(map(bytes, self._key(rows)))

    def unit(self, rows: np.ndarray) -> np.ndarray:
        """Raw rows in widths of the box."""
        return (rows - self.low) / self.width

    def raw(self, units: np.ndarray) -> np.ndarray:
        """Back, never outside the box by rounding, and whole where all own values are."""
        rows = np.clip(self.low + units * self.width, self.low, self.high)
        return np.where(self.whole, np.round(rows), rows)

    def project(self, units: np.ndarray, origin: np.ndarray) -> np.ndarray:
        """Nearest allowed points ``(..., n, F)``: in the box, whole numbers, one-hot groups at a corner.

        What may not move is where it was.
        """
        inside = np.where(self.movable, np.clip(units, 0, 1), origin)
        inside = np.where(self.whole, self.unit(self.raw(inside)), inside)
        for group in self.groups:
            corner = inside[..., group].argmax(-1)
            inside[..., group] = np.eye(len(group))[corner]
        return inside

    def distance(self, units: np.ndarray, origin: np.ndarray) -> np.ndarray:
        """L1 distance ``(n,)`` in widths."""
        return np.abs(units - origin).sum(-1)

    def is_new(self, rows: np.ndarray) -> np.ndarray:
        """Whether the teacher has no row that looks like this to the student ``(n,)``."""
        return np.array([bytes(key) not in self.known for key in self._key(rows)], bool)

    def _key(self, rows: np.ndarray) -> np.ndarray:
        """The shared features of rows, rounded; adding 0 makes -0 the same as 0."""
        return np.ascontiguousarray(np.round(self.unit(rows)[:, self.shared], DECIMALS) + 0.0)


class Found(NamedTuple):
    """What a search has found for each of n instances."""

    rows: np.ndarray
    """Counterfactuals ``(n, F)`` in the teacher's features; where none was found, the instance itself."""
    surer: np.ndarray
    """Whether there is one: far enough, of the same class to the teacher, which is surer of it ``(n,)``."""
    new: np.ndarray
    """Whether it is none of the teacher's own rows as the student sees them ``(n,)``."""
    distance: np.ndarray
    """L1 distance in widths ``(n,)``."""
    before: np.ndarray
    """Probability of the true class at the instance ``(n,)``."""
    after: np.ndarray
    """The same at the counterfactual ``(n,)``."""

    @property
    def usable(self) -> np.ndarray:
        """What may be sent."""
        return self.surer & self.new


def counterfactuals(
    teacher: Owner,
    instances: np.ndarray,
    shared: np.ndarray,
    groups: Sequence[np.ndarray],
    config: SearchConfig,
    generator: np.random.Generator,
) -> Found:
    """One counterfactual for each of some own rows of a teacher, all searched at once.

    Torch learners are searched by gradient. Where that finds none, since a saturated network has no gradient, and for
    all other learners, by trying.

    Args:
        teacher: its fitted learner and rows.
        instances: indices ``(n,)`` of own rows that it gets right.
        shared: columns that the student has, too: the only ones that move.
        groups: columns that are one-hot together.
        config: settings.
        generator: of the search.
    """
    space = Space(teacher.table.rows, shared, groups)
    rows, labels = teacher.table.rows[instances], teacher.table.labels[instances]
    problem = Problem(teacher, space, rows, labels, config)
    best = space.unit(rows)
    if isinstance(teacher.learner, TorchClassifier) and config.gradient_steps:
        best = gradient_search(teacher.learner, problem)
    left = np.flatnonzero(~problem.found(best).usable)
    if len(left):
        best[left] = model_free_search(problem.take(left), generator)
    return problem.found(best)


class Problem:
    """The instances of one search, what it looks for, and what counts as found."""

    def __init__(
        self, teacher: Owner, space: Space, rows: np.ndarray, labels: np.ndarray, config: SearchConfig
    ) -> None:
        self.teacher, self.space, self.rows, self.labels, self.config = teacher, space, rows, labels, config
        self.origin = space.unit(rows)
        self.place = teacher.place(labels)
        self.proba = teacher.proba(rows)
        self.before = self.proba[np.arange(len(rows)), self.place]
        self.target = (1 - config.alpha) * self.proba
        self.target[np.arange(len(rows)), self.place] += config.alpha
        self.least = config.least_move * space.movable.sum()

    def take(self, which: np.ndarray) -> Problem:
        """The same for some of the instances."""
        return Problem(self.teacher, self.space, self.rows[which], self.labels[which], self.config)

    def loss(self, units: np.ndarray) -> np.ndarray:
        """What is minimised, of several candidates ``(P, n, F)`` at once ``(P, n)``; infinite where one is no use."""
        rows = self.space.raw(units.reshape(-1, units.shape[-1]))
        proba = self.teacher.proba(rows).reshape(*units.shape[:2], -1)
        distance = self.space.distance(units, self.origin)
        loss = ((proba - self.target) ** 2).sum(-1) + self.config.sparsity * distance
        loss += np.where(self.space.is_new(rows).reshape(loss.shape), 0.0, KNOWN)
        return np.where(self._surer(proba) & self._far(distance), loss, np.inf)

    def found(self, units: np.ndarray) -> Found:
        """What these points are worth."""
        rows = self.space.raw(units)
        rows[:, ~self.space.movable] = self.rows[:, ~self.space.movable]  # bit for bit
        proba, distance = self.teacher.proba(rows), self.space.distance(units, self.origin)
        surer = self._surer(proba) & self._far(distance)
        after = proba[np.arange(len(rows)), self.place]
        return Found(rows, surer, self.space.is_new(rows), distance, self.before, after)

    def _surer(self, proba: np.ndarray) -> np.ndarray:
        """Whether the teacher keeps the class and is surer of it (as sure, where it was certain)."""
        now = proba[..., np.arange(len(self.place)), self.place]
        more = (now > self.before) | ((self.before >= CERTAIN) & (now >= self.before))
        return more & (proba.argmax(-1) == self.place)

    def _far(self, distance: np.ndarray) -> np.ndarray:
        return (distance >= self.least) & (distance > 0)


def gradient_search(learner: TorchClassifier, problem: Problem) -> np.ndarray:
    """Adam on the instances themselves, all at once; returns points ``(n, F)`` in widths of the box."""
    space, config = problem.space, problem.config
    # float64, so that large numbers of little spread keep their digits.
    low, width, origin = (torch.tensor(part) for part in (space.low, space.width, problem.origin))
    movable, target = torch.tensor(space.movable), torch.tensor(problem.target)
    units = origin.clone().requires_grad_()
    adam = torch.optim.Adam([units], lr=config.step_size)
    for _ in range(config.gradient_steps):
        error = ((learner.logits(low + units * width).softmax(1) - target) ** 2).sum()
        loss = error + config.sparsity * (units - origin).abs().sum()
        (gradient,) = torch.autograd.grad(loss, units)  # of the inputs alone: pairs share the network
        units.grad = gradient * movable
        adam.step()
        with torch.no_grad():
            units.clamp_(0, 1)
    return space.project(units.detach().numpy(), problem.origin)


def model_free_search(problem: Problem, generator: np.random.Generator) -> np.ndarray:
    """The best of random points, step by step, all instances at once; returns points ``(n, F)``.

    Each candidate goes a random way from the best point so far towards an own row of the teacher's of the same class,
    or back towards the original, or to the side in some features. One-hot groups and features of two values go or stay
    each by itself, so that combinations arise that no row has.
    """
    space, config, origin = problem.space, problem.config, problem.origin
    best, least = origin.copy(), np.full(len(origin), np.inf)
    partners = _partners(problem)
    every = np.arange(len(origin))
    for _ in range(config.search_steps):
        candidates = np.stack([_step(best, problem, partners(generator), generator) for _ in range(config.proposals)])
        candidates = space.project(candidates, origin)
        losses = problem.loss(candidates)
        winner = losses.argmin(0)
        better = losses[winner, every] < least
        best[better] = candidates[winner, every][better]
        least[better] = losses[winner, every][better]
    return best


def _step(best: np.ndarray, problem: Problem, partner: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """A candidate for each point."""
    n, features = best.shape
    share = generator.random((n, 1))
    moved = generator.random((n, features)) < MOVED_SHARE
    aside = best + np.where(moved, NOISE * generator.standard_normal((n, features)), 0.0)
    kind = generator.integers(3, size=(n, 1))
    goal = np.where(kind == 0, partner, problem.origin)
    follows = (generator.random((n, features)) < generator.random((n, 1))) | ~problem.space.binary
    for group in problem.space.groups:
        follows[:, group] = follows[:, group[:1]]
    return np.where(kind == 2, aside, best + share * follows * (goal - best))


def _partners(problem: Problem) -> Callable[[np.random.Generator], np.ndarray]:
    """Draws for each instance one of the teacher's own rows of its class."""
    own = problem.space.unit(problem.space.rows)
    members = {label: np.flatnonzero(problem.teacher.table.labels == label) for label in np.unique(problem.labels)}

    def draw(generator: np.random.Generator) -> np.ndarray:
        chosen = np.empty(len(problem.labels), int)
        for label, rows in members.items():
            asked = problem.labels == label
            chosen[asked] = rows[generator.integers(len(rows), size=asked.sum())]
        return own[chosen]

    return draw
