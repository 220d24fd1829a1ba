"""A learner with its data: fitting, predicting, and completing received rows."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from typing import Any

import numpy as np
import pandas as pd
from sklearn.base import clone
from sklearn.neighbors import NearestNeighbors

from policykd.classification.data.batches import seeded
from policykd.cooperation.tables import Table, flattened
from policykd.core.errors import PolicyKDError, nearest
from policykd.core.seeding import seed_learner

NEIGHBOURS = 5
"""Received rows are completed from one of this many nearest rows, drawn at random."""


class Owner:
    """A learner with its data. A clone is refitted whenever it has received rows.

    Args:
        name: name of the learner.
        learner: the user's learner, which is cloned and never changed.
        table: its data.
        seed: seed of its ``random_state`` if that is None, and of anything else random in its fit.
    """

    def __init__(self, name: str, learner: Any, table: Table, seed: int) -> None:
        self.name, self.table, self.seed = name, table, seed
        self.unfitted = seed_learner(clone(learner, safe=False), seed)
        self.received_rows = np.empty((0, table.rows.shape[1]))
        self.received_labels = table.labels[:0]
        self.learner: Any = None

    def fit(self) -> None:
        """Fit a clone on its own and received rows.

        Raises:
            PolicyKDError: the learner's fit fails, or it has no probabilities.
        """
        learner = clone(self.unfitted, safe=False)
        rows = np.concatenate([self.table.rows, self.received_rows])
        labels = np.concatenate([self.table.labels, self.received_labels])
        with _learner_errors(self.name, "fit"), seeded(self.seed):
            learner.fit(self.as_given(rows), labels)
        if not hasattr(learner, "predict_proba") or not hasattr(learner, "classes_"):
            raise PolicyKDError(
                f"learner {self.name!r}: {type(learner).__name__} has no predict_proba and classes_: "
                "choose one that does, or calibrate it (sklearn.calibration.CalibratedClassifierCV)"
            )
        self.learner = learner

    @property
    def classes(self) -> np.ndarray:
        """Labels ``(C,)`` of the fitted learner, in the order of its probabilities."""
        return np.asarray(self.learner.classes_)

    def as_given(self, rows: np.ndarray) -> pd.DataFrame | np.ndarray:
        """Rows in the user's format: a DataFrame or an array."""
        return pd.DataFrame(rows, columns=list(self.table.names)) if self.table.is_frame else rows

    def proba(self, rows: np.ndarray) -> np.ndarray:
        """Predict probabilities ``(n, C)``, in the order of ``learner.classes_``.

        Raises:
            PolicyKDError: the learner's prediction fails, or does not return probabilities.
        """
        with _learner_errors(self.name, "predict_proba"):
            found = np.asarray(self.learner.predict_proba(self.as_given(rows)), np.float64)
        if found.shape != (len(rows), len(self.classes)) or not np.isfinite(found).all():
            raise PolicyKDError(
                f"learner {self.name!r}: predict_proba gave {found.shape} or values that are not finite for "
                f"{len(rows)} rows and {len(self.classes)} classes"
            )
        return found

    def predict(self, rows: np.ndarray) -> np.ndarray:
        """Predict the label of each row."""
        return self.classes[self.proba(rows).argmax(1)]

    def class_index(self, labels: np.ndarray) -> np.ndarray:
        """Column of each label in ``proba``; all of them must be among its classes."""
        order = np.argsort(self.classes)
        return order[np.searchsorted(self.classes, labels, sorter=order)]

    def complete(self, rows: np.ndarray, names: Sequence[str]) -> np.ndarray:
        """Fill in another owner's rows ``(n, F)`` with this learner's features, for prediction.

        Features that the other owner lacks are copied from the nearest own row in the shared features. Labels are not
        used, since they are unknown at prediction.

        Args:
            rows: ``(n, len(names))``.
            names: the shared features, in the order of the columns of ``rows``.
        """
        shared = self.table.columns(names)
        if len(shared) == len(self.table.names):
            return self._joined(rows, shared, np.zeros(len(rows), int))
        index = self._neighbours(shared, np.arange(len(self.table.rows)), 1).kneighbors(
            self._scaled(rows, shared), return_distance=False
        )
        return self._joined(rows, shared, index[:, 0])

    def complete_for_training(
        self, rows: np.ndarray, labels: np.ndarray, names: Sequence[str], generator: np.random.Generator
    ) -> np.ndarray:
        """Fill in received rows ``(n, F)`` for training, with features that the sender lacks sampled from own rows.

        For a class that this owner has, they come from one of the nearest own rows of that class, so that they match
        the label and the rest of the row. For a class that it lacks, they come from any own row and say nothing about
        the class. A constant would distinguish received rows from own ones, which trees would learn.

        Args:
            rows: ``(n, len(names))``.
            labels: their classes.
            names: the shared features, in the order of the columns of ``rows``.
            generator: random generator.
        """
        shared, chosen = self.table.columns(names), np.zeros(len(rows), int)
        if len(shared) < len(self.table.names):
            for label in np.unique(labels):
                asked = np.flatnonzero(labels == label)
                own = np.flatnonzero(self.table.labels == label)
                if len(own):
                    count = min(NEIGHBOURS, len(own))
                    near = self._neighbours(shared, own, count).kneighbors(
                        self._scaled(rows[asked], shared), return_distance=False
                    )
                    draw = generator.integers(count, size=len(asked))
                    chosen[asked] = own[near[np.arange(len(asked)), draw]]
                else:
                    chosen[asked] = generator.integers(len(self.table.rows), size=len(asked))
        return self._joined(rows, shared, chosen)

    def receive(self, rows: np.ndarray, labels: np.ndarray) -> None:
        """Add rows to those this learner is fitted on."""
        self.received_rows = np.concatenate([self.received_rows, rows])
        self.received_labels = np.concatenate([self.received_labels, labels])

    def _joined(self, rows: np.ndarray, shared: np.ndarray, donors: np.ndarray) -> np.ndarray:
        whole = self.table.rows[donors]
        whole[:, shared] = rows
        return whole

    def _neighbours(self, shared: np.ndarray, own: np.ndarray, count: int) -> NearestNeighbors:
        """Nearest neighbours among the given own rows in the shared features, scaled by this owner's range."""
        search = NearestNeighbors(n_neighbors=count, metric="manhattan")
        return search.fit(self._scaled(self.table.rows[np.ix_(own, shared)], shared))

    def _scaled(self, rows: np.ndarray, shared: np.ndarray) -> np.ndarray:
        width = np.ptp(self.table.rows[:, shared], axis=0)
        return rows / np.where(width > 0, width, 1.0)


def named_learners(learners: Sequence[Any] | Mapping[str, Any]) -> dict[str, Any]:
    """Name learners: as the user did, or by class, numbered if two have the same class.

    Raises:
        PolicyKDError: they are not a list or a dict, fewer than two, two share a name, or one is not a learner.
    """
    if not isinstance(learners, Sequence | Mapping):
        raise PolicyKDError(f"learners: needs two or more in a list or by name, got {flattened(learners)}")
    if isinstance(learners, Mapping) or all(isinstance(item, tuple) and len(item) == 2 for item in learners):
        named = dict(learners)
    else:
        named = dict(zip(numbered([type(item).__name__ for item in learners]), learners, strict=True))
    if len(named) != len(learners) or len(named) < 2:
        raise PolicyKDError(f"learners: needs two or more with different names, got {', '.join(named) or 'none'}")
    for name, learner in named.items():
        if not hasattr(learner, "fit") or isinstance(learner, type):
            raise PolicyKDError(f"learner {name!r}: needs fit and predict_proba, got {learner!r}")
    return named


def numbered(kinds: Sequence[str]) -> list[str]:
    """Name learners by kind, numbered if a kind occurs twice."""
    return [f"{kind}_{place + 1}" if kinds.count(kind) > 1 else kind for place, kind in enumerate(kinds)]


def check_groups(one_hot: Sequence[Sequence[str]], owners: Sequence[Owner]) -> None:
    """Refuse one-hot groups that a learner has only in part, or whose columns are not one-hot.

    Raises:
        PolicyKDError: there is such a group; the error names it and the learner.
    """
    known = set(chain.from_iterable(owner.table.names for owner in owners))
    for group in one_hot:
        for name in group:
            if name not in known:
                raise PolicyKDError(f"one_hot: no learner has a feature {name!r}{nearest(name, known)}")
        for owner in owners:
            has = [name for name in group if name in owner.table.names]
            if not has:
                continue
            if len(has) < len(group):
                missing = sorted(set(group) - set(has))
                raise PolicyKDError(
                    f"one_hot: {owner.name!r} has {has[0]!r} without {missing}: give it all of them or none"
                )
            values = owner.table.rows[:, owner.table.columns(group)]
            if not (np.isin(values, (0.0, 1.0)).all() and (values.sum(1) == 1).all()):
                raise PolicyKDError(
                    f"one_hot: rows of {owner.name!r} do not have exactly one 1 in {', '.join(group)}, and 0 else"
                )


def shared_names(teacher: Owner, student: Owner) -> tuple[str, ...]:
    """Shared features, in the teacher's order."""
    return tuple(name for name in teacher.table.names if name in student.table.names)


@contextlib.contextmanager
def _learner_errors(name: str, what: str) -> Iterator[None]:
    """Report any error of a learner in one line."""
    try:
        yield
    except Exception as error:  # a learner of any library may raise anything
        raise PolicyKDError(f"learner {name!r}: its {what} failed: {flattened(error)}") from error
