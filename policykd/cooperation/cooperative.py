"""Cooperative distillation: every learner teaches each other learner what it gets right and the other gets wrong.

Livanos, Davidson & Wong, *Cooperative Knowledge Distillation: A Learner Agnostic Approach*, AAAI 2024
(arXiv 2402.05942).
For learners f_1, ..., f_P of any kind, each with its own rows D_i and its own features:

    S_i    = rows of D_i that f_i gets right
    R_ij   = rows of S_i that f_j gets wrong          i is a qualified teacher of j on these alone
    x'     = each of these moved in the shared features, so that f_i is surer of its class (counterfactuals.py)
    D_j   += (x', y) from every i; then f_j is refitted; all learners simultaneously
"""

from __future__ import annotations

import dataclasses
import logging
import numbers
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import pandas as pd
from sklearn.base import BaseEstimator

from policykd.cooperation.config import SearchConfig
from policykd.cooperation.lessons import SHARES, Delivery, Lesson, Pair, deliveries, qualified_pairs, report
from policykd.cooperation.owners import Owner, check_groups, named_learners
from policykd.cooperation.tables import RESERVED, Data, Table, read_tables
from policykd.core.errors import PolicyKDError
from policykd.core.fields import build, require

log = logging.getLogger("policykd")


class CooperativeDistillation(BaseEstimator):
    """Learners that teach one another with counterfactuals; no row reaches another learner unchanged.

    Args:
        learners: two or more, in a list or by name: scikit-learn classifiers, or anything with their ``fit``,
            ``predict_proba`` and ``classes_``; torch modules as ``TorchClassifier``. They are cloned, never changed.
        rounds: number of rounds of teaching.
        alpha: position of a counterfactual's target between the teacher's probabilities (0) and certainty (1).
        sparsity: weight of the L1 distance in the search.
        least_move: minimum mean distance from the original, over the shared features that vary in the teacher's data,
            in units of their range.
        gradient_steps: Adam steps of the search for torch learners; 0 searches without gradients.
        step_size: Adam's learning rate in this search, in units of the range.
        search_steps: steps of the gradient-free search for all other learners.
        proposals: candidates per row in each step of the gradient-free search.
        one_hot: groups of feature names, each of which encodes one category.
        share: what is sent. "counterfactuals" is the method. Two baselines do NOT keep rows with their owner:
            "instances" sends the qualified rows unchanged, "teacher_labels" as many random rows with the teacher's
            predictions.
        n_jobs: pairs of learners processed in parallel (joblib); results do not depend on it.
        random_state: seed of the search and the sampling, and of learners whose ``random_state`` is None.
        progress_bar: show a progress bar over the pairs of a round.

    Attributes:
        learners_: fitted learners by name.
        lessons_: one row per ordered pair and round, with the columns of ``Lesson``.
        accuracy_: accuracy of each learner on its own rows (``train``) and on the validation data, before the first
            round (round 0) and after each.
        received_: by name, the rows that each student received, as it was trained on them: its features, ``label``,
            ``teacher``, ``round``.
    """

    def __init__(
        self,
        learners: Sequence[Any] | Mapping[str, Any],
        *,
        rounds: int = 1,
        alpha: float = 0.5,
        sparsity: float = 1e-3,
        least_move: float = 0.02,
        gradient_steps: int = 50,
        step_size: float = 0.02,
        search_steps: int = 15,
        proposals: int = 4,
        one_hot: Sequence[Sequence[str]] = (),
        share: Literal["counterfactuals", "instances", "teacher_labels"] = "counterfactuals",
        n_jobs: int | None = None,
        random_state: int = 0,
        progress_bar: bool = False,
    ) -> None:
        self.learners = learners
        self.rounds = rounds
        self.alpha = alpha
        self.sparsity = sparsity
        self.least_move = least_move
        self.gradient_steps = gradient_steps
        self.step_size = step_size
        self.search_steps = search_steps
        self.proposals = proposals
        self.one_hot = one_hot
        self.share = share
        self.n_jobs = n_jobs
        self.random_state = random_state
        self.progress_bar = progress_bar

    def fit(
        self,
        datasets: Sequence[Data] | Mapping[str, Data],
        validation: Sequence[Data] | Mapping[str, Data] | None = None,
    ) -> CooperativeDistillation:
        """Fit every learner on its own data, then let them teach one another.

        Args:
            datasets: ``(features, labels)`` or a ``Dataset`` for each learner, in their order or by name. Features are
                matched by name. A learner need not have seen every class.
            validation: validation data in the same form, used only for ``accuracy_``; may have more features.

        Raises:
            PolicyKDError: a setting or a data set is invalid.
        """
        search = self._checked()
        owners = make_owners(self.learners, datasets, int(self.random_state))
        groups = [tuple(map(str, group)) for group in self.one_hot]  # column names are strings too
        check_groups(groups, owners)
        held = _validation(validation, owners)

        for owner in owners:
            owner.fit()
        lessons: list[Lesson] = []
        accuracy = _accuracy(owners, held, 0)
        received: dict[str, list[pd.DataFrame]] = {owner.name: [] for owner in owners}
        for round_ in range(1, self.rounds + 1):
            pairs = qualified_pairs(owners)
            sent = deliveries(
                pairs,
                owners,
                share=self.share,
                one_hot=groups,
                search=search,
                seed=(self.random_state, round_),
                n_jobs=self.n_jobs,
                progress_bar=self.progress_bar,
            )
            for j, student in enumerate(owners):
                incoming = [(pair, delivery) for pair, delivery in zip(pairs, sent, strict=True) if pair.student == j]
                received[student.name] += self._learn(student, incoming, owners, round_)
            lessons += [report(pair, delivery, owners, round_) for pair, delivery in zip(pairs, sent, strict=True)]
            accuracy += _accuracy(owners, held, round_)

        self.learners_ = {owner.name: owner.learner for owner in owners}
        self.lessons_ = pd.DataFrame(lessons, columns=list(Lesson._fields))
        self.accuracy_ = pd.DataFrame(accuracy)
        self.received_ = {
            owner.name: pd.concat(received[owner.name] or [_empty_table(owner)], ignore_index=True) for owner in owners
        }
        return self

    def _checked(self) -> SearchConfig:
        """Validate all settings; returns those of the search."""
        rounds, seed, jobs = self.rounds, self.random_state, self.n_jobs
        require(_whole(rounds) and rounds >= 1, "rounds", rounds, "must be an integer >= 1")
        repeats = "must be an integer >= 0, to make runs reproducible"
        require(_whole(seed) and seed >= 0, "random_state", seed, repeats)
        require(jobs is None or (_whole(jobs) and jobs != 0), "n_jobs", jobs, "must be None or a nonzero integer")
        require(self.share in SHARES, "share", self.share, f"must be one of {', '.join(SHARES)}")
        listed = isinstance(self.one_hot, Sequence) and all(isinstance(group, list | tuple) for group in self.one_hot)
        require(listed, "one_hot", self.one_hot, "must be a list of groups, each a list of feature names")
        return build(
            SearchConfig, {field.name: getattr(self, field.name) for field in dataclasses.fields(SearchConfig)}
        )

    def _learn(
        self, student: Owner, incoming: Sequence[tuple[Pair, Delivery]], owners: Sequence[Owner], round_: int
    ) -> list[pd.DataFrame]:
        """Complete the rows sent to a student, and refit it with them added; returns the new rows."""
        received = []
        for pair, delivery in incoming:
            if not len(delivery.rows):
                continue
            seed = np.random.SeedSequence((self.random_state, round_, pair.teacher, pair.student, 1))
            rows = student.complete_for_training(
                delivery.rows, delivery.labels, pair.names, np.random.default_rng(seed)
            )
            student.receive(rows, delivery.labels)
            frame = pd.DataFrame(rows, columns=list(student.table.names))
            received.append(frame.assign(label=delivery.labels, teacher=owners[pair.teacher].name, round=round_))
        if received:
            student.fit()
            return received
        qualified = any(len(pair.qualified) for pair, _ in incoming)
        why = "no learner found a counterfactual for it" if qualified else "no learner is right where it is wrong"
        log.warning("cooperation: round %d: %r is unchanged: %s", round_, student.name, why)
        return []


def make_owners(
    learners: Sequence[Any] | Mapping[str, Any], datasets: Sequence[Data] | Mapping[str, Data], seed: int
) -> list[Owner]:
    """Pair learners with their checked data; nothing is fitted yet.

    Raises:
        PolicyKDError: a learner or a data set is invalid; the error says why.
    """
    named = named_learners(learners)
    tables = read_tables(datasets, list(named), "data")
    return [
        Owner(name, learner, table, int(np.random.default_rng((seed, place)).integers(2**31)))
        for place, ((name, learner), table) in enumerate(zip(named.items(), tables, strict=True))
    ]


def _validation(data: Sequence[Data] | Mapping[str, Data] | None, owners: Sequence[Owner]) -> list[Table] | None:
    """Validation tables of each learner, with its features only."""
    if data is None:
        return None
    tables = read_tables(data, [owner.name for owner in owners], "validation")
    kind, own = tables[0].label_kind, owners[0].table.label_kind
    if kind != own:
        raise PolicyKDError(f"validation: labels are {kind}, but {own} in the training data: use one kind")
    return [
        table.select(owner.table.names, f"validation of {owner.name!r}")
        for owner, table in zip(owners, tables, strict=True)
    ]


def _whole(value: object) -> bool:
    return isinstance(value, numbers.Integral)


def _accuracy(owners: Sequence[Owner], held: Sequence[Table] | None, round_: int) -> list[dict[str, Any]]:
    """Rows of ``accuracy_``."""
    found = []
    for place, owner in enumerate(owners):
        row = {"round": round_, "learner": owner.name, "train": _score(owner, owner.table)}
        found.append(row | ({} if held is None else {"validation": _score(owner, held[place])}))
    return found


def _score(owner: Owner, table: Table) -> float:
    return float((owner.predict(table.rows) == table.labels).mean())


def _empty_table(student: Owner) -> pd.DataFrame:
    """The empty table of a student that received nothing."""
    return pd.DataFrame(columns=[*student.table.names, *RESERVED])
