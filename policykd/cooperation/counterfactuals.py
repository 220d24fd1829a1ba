"""Quintessential counterfactuals: instances moved so that a teacher is surer of their true class.

Livanos, Davidson & Wong, AAAI 2024 (arXiv 2402.05942). With f the teacher's probabilities, y the true class as a
one-hot vector and features in units of their range in the teacher's data ("widths" below):

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
"""From this confidence on, a teacher need not be surer of the counterfactual, only as sure."""
DECIMALS = 6
"""Rows that agree to this many decimals, in widths of the teacher's data, count as equal."""
KNOWN = 1e9
"""Added to the loss of a point that equals one of the teacher's rows, so that any new point is preferred."""
MOVED_SHARE, NOISE = 0.3, 0.1
"""Random steps of the gradient-free search: fraction of features that move, and standard deviation."""


class Space:
    """The search space: the bounding box of a teacher's rows, with each feature scaled to [0, 1].

    Args:
        rows: the teacher's rows ``(n, F)``.
        shared: columns that the student also has; the others stay fixed.
        groups: groups of one-hot columns.
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
        # A column that is constant in the teacher's data cannot be chosen.
        self.groups = [free for group in groups if len(free := group[self.movable[group]])]
        self.known = set(map(bytes, self._key(rows)))

    def unit(self, rows: np.ndarray) -> np.ndarray:
        """Scale raw rows to the unit box."""
        return (rows - self.low) / self.width

    def raw(self, units: np.ndarray) -> np.ndarray:
        """The inverse of ``unit``: clipped to the box, and integer where all the teacher's values are."""
        rows = np.clip(self.low + units * self.width, self.low, self.high)
        return np.where(self.whole, np.round(rows), rows)

    def project(self, units: np.ndarray, origin: np.ndarray) -> np.ndarray:
        """Project to the nearest feasible points ``(..., n, F)``: in the box, integer or one-hot where required.

        Fixed features keep the value of ``origin``.
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
        """Whether no row of the teacher's is equal in the shared features ``(n,)``."""
        return np.array([bytes(key) not in self.known for key in self._key(rows)], bool)

    def _key(self, rows: np.ndarray) -> np.ndarray:
        """Rounded shared features of rows; adding 0 turns -0 into 0."""
        return np.ascontiguousarray(np.round(self.unit(rows)[:, self.shared], DECIMALS) + 0.0)


class Found(NamedTuple):
    """Result of a search for each of n instances."""

    rows: np.ndarray
    """Counterfactuals ``(n, F)`` in the teacher's features; the instance itself if none was found."""
    more_confident: np.ndarray
    """Whether one was found ``(n,)``: far enough, and the teacher predicts the same class more confidently."""
    new: np.ndarray
    """Whether it differs from all the teacher's rows in the shared features ``(n,)``."""
    distance: np.ndarray
    """L1 distance in widths ``(n,)``."""
    before: np.ndarray
    """Probability of the true class at the instance ``(n,)``."""
    after: np.ndarray
    """The same at the counterfactual ``(n,)``."""

    @property
    def usable(self) -> np.ndarray:
        """Whether it may be sent ``(n,)``."""
        return self.more_confident & self.new


def counterfactuals(
    teacher: Owner,
    instances: np.ndarray,
    shared: np.ndarray,
    groups: Sequence[np.ndarray],
    config: SearchConfig,
    generator: np.random.Generator,
) -> Found:
    """Search counterfactuals for several of a teacher's rows at once.

    Torch learners are searched by gradient. All other learners are searched without gradients, and so are instances
    for which the gradient found nothing, as with saturated networks.

    Args:
        teacher: its fitted learner and rows.
        instances: indices ``(n,)`` of its rows that it classifies correctly.
        shared: columns that the student also has; only these move.
        groups: groups of one-hot columns.
        config: settings of the search.
        generator: random generator of the search.
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
    """The instances of one search, its objective, and the criterion of success."""

    def __init__(
        self, teacher: Owner, space: Space, rows: np.ndarray, labels: np.ndarray, config: SearchConfig
    ) -> None:
        self.teacher, self.space, self.rows, self.labels, self.config = teacher, space, rows, labels, config
        self.origin = space.unit(rows)
        self.class_index = teacher.class_index(labels)
        self.proba = teacher.proba(rows)
        self.before = self.proba[np.arange(len(rows)), self.class_index]
        self.target = (1 - config.alpha) * self.proba
        self.target[np.arange(len(rows)), self.class_index] += config.alpha
        self.least = config.least_move * space.movable.sum()

    def take(self, which: np.ndarray) -> Problem:
        """Select some of the instances."""
        return Problem(self.teacher, self.space, self.rows[which], self.labels[which], self.config)

    def loss(self, units: np.ndarray) -> np.ndarray:
        """Objective ``(P, n)`` of candidates ``(P, n, F)``; infinite for invalid ones."""
        rows = self.space.raw(units.reshape(-1, units.shape[-1]))
        proba = self.teacher.proba(rows).reshape(*units.shape[:2], -1)
        distance = self.space.distance(units, self.origin)
        loss = ((proba - self.target) ** 2).sum(-1) + self.config.sparsity * distance
        loss += np.where(self.space.is_new(rows).reshape(loss.shape), 0.0, KNOWN)
        return np.where(self._more_confident(proba) & self._far(distance), loss, np.inf)

    def found(self, units: np.ndarray) -> Found:
        """Evaluate points as counterfactuals."""
        rows = self.space.raw(units)
        rows[:, ~self.space.movable] = self.rows[:, ~self.space.movable]  # bit for bit
        proba, distance = self.teacher.proba(rows), self.space.distance(units, self.origin)
        more_confident = self._more_confident(proba) & self._far(distance)
        after = proba[np.arange(len(rows)), self.class_index]
        return Found(rows, more_confident, self.space.is_new(rows), distance, self.before, after)

    def _more_confident(self, proba: np.ndarray) -> np.ndarray:
        """Whether the teacher predicts the same class more confidently (or as confidently, if it was certain)."""
        now = proba[..., np.arange(len(self.class_index)), self.class_index]
        more = (now > self.before) | ((self.before >= CERTAIN) & (now >= self.before))
        return more & (proba.argmax(-1) == self.class_index)

    def _far(self, distance: np.ndarray) -> np.ndarray:
        return (distance >= self.least) & (distance > 0)


def gradient_search(learner: TorchClassifier, problem: Problem) -> np.ndarray:
    """Adam on the inputs, all instances at once; returns points ``(n, F)`` in the unit box."""
    space, config = problem.space, problem.config
    # float64, so that large values of little spread keep their precision.
    low, width, origin = (torch.tensor(part) for part in (space.low, space.width, problem.origin))
    movable, target = torch.tensor(space.movable), torch.tensor(problem.target)
    units = origin.clone().requires_grad_()
    adam = torch.optim.Adam([units], lr=config.step_size)
    for _ in range(config.gradient_steps):
        error = ((learner.logits(low + units * width).softmax(1) - target) ** 2).sum()
        loss = error + config.sparsity * (units - origin).abs().sum()
        (gradient,) = torch.autograd.grad(loss, units)  # of the inputs only, since pairs share the network
        units.grad = gradient * movable
        adam.step()
        with torch.no_grad():
            units.clamp_(0, 1)
    return space.project(units.detach().numpy(), problem.origin)


def model_free_search(problem: Problem, generator: np.random.Generator) -> np.ndarray:
    """Random local search, all instances at once; returns points ``(n, F)`` in the unit box.

    Each candidate moves from the best point so far by a random fraction towards one of the teacher's rows of the same
    class or back towards the original, or perturbs some features. One-hot groups and binary features switch
    independently, which gives combinations that no row has.
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
    """Propose a candidate for each point."""
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
    """A sampler that draws, for each instance, one of the teacher's rows of its class."""
    own = problem.space.unit(problem.space.rows)
    members = {label: np.flatnonzero(problem.teacher.table.labels == label) for label in np.unique(problem.labels)}

    def draw(generator: np.random.Generator) -> np.ndarray:
        chosen = np.empty(len(problem.labels), int)
        for label, rows in members.items():
            asked = problem.labels == label
            chosen[asked] = rows[generator.integers(len(rows), size=asked.sum())]
        return own[chosen]

    return draw
