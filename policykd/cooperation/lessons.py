"""One round of teaching: qualified teachers, the most confident of them, and the rows they send."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import NamedTuple

import numpy as np
from joblib import Parallel, delayed
from tqdm import tqdm

from policykd.cooperation.config import SearchConfig
from policykd.cooperation.counterfactuals import counterfactuals
from policykd.cooperation.owners import Owner, shared_names

SHARES = ("counterfactuals", "instances", "teacher_labels")


class Lesson(NamedTuple):
    """Record of one teacher, one student and one round."""

    round: int
    teacher: str
    student: str
    shared_features: int
    """Features of both."""
    qualified: int
    """Number of the teacher's rows that it gets right and the student gets wrong."""
    chosen: int
    """Qualified rows for which it is the most confident of the qualified teachers."""
    not_surer: int
    """Chosen rows without a counterfactual that the teacher is surer of."""
    not_new: int
    """Counterfactuals withheld because they equal one of the teacher's rows in the shared features."""
    sent: int
    """Number of rows that the student received."""
    distance: float
    """Mean L1 distance of the sent rows from their originals, in units of the range of the teacher's data."""
    before: float
    """The teacher's mean probability of the true class at their originals."""
    after: float
    """The same for the sent rows."""
    learned: int
    """Number of qualified rows that the student gets right after the round."""


class Pair(NamedTuple):
    """An ordered pair of learners, and the rows that one may teach the other."""

    teacher: int
    student: int
    names: tuple[str, ...]
    """Features of both."""
    qualified: np.ndarray
    """Indices of the teacher's rows."""
    confidence: np.ndarray
    """Its probability of the true class of each."""


class Delivery(NamedTuple):
    """Rows that one teacher sends one student."""

    rows: np.ndarray
    """``(sent, shared features)``."""
    labels: np.ndarray
    """``(sent,)``."""
    facts: dict[str, float]
    """Columns of the lesson that are known at this point."""


def qualified_pairs(owners: Sequence[Owner]) -> list[Pair]:
    """R_ij for every ordered pair of learners that share a feature."""
    pairs = []
    for i, teacher in enumerate(owners):
        rows, labels = teacher.table.rows, teacher.table.labels
        proba = teacher.proba(rows)
        right = np.flatnonzero(teacher.classes[proba.argmax(1)] == labels)
        confidence = proba[right].max(1, initial=0)
        for j, student in enumerate(owners):
            names = shared_names(teacher, student)
            if i == j or not names:
                continue
            wrong = _answers(student, teacher, right, names) != labels[right]
            pairs.append(Pair(i, j, names, right[wrong], confidence[wrong]))
    return pairs


def most_confident(pairs: Sequence[Pair], owners: Sequence[Owner]) -> list[np.ndarray]:
    """Choose for each pair the qualified rows to teach, so that each student gets each instance once.

    An instance with several owners (``Dataset.instances``) is taught by the qualified teacher that is most confident of
    it, the first one in a tie.
    """
    surest: dict[tuple[int, Hashable], tuple[float, int, int]] = {}
    for number, pair in enumerate(pairs):
        names = owners[pair.teacher].table.instances
        for row, confidence in zip(pair.qualified.tolist(), pair.confidence.tolist(), strict=True):
            instance: Hashable = ("row", pair.teacher, row) if names is None else ("name", names[row])
            if confidence > surest.get((pair.student, instance), (-1.0,))[0]:
                surest[pair.student, instance] = (confidence, number, row)
    chosen: list[list[int]] = [[] for _ in pairs]
    for _, number, row in surest.values():
        chosen[number].append(row)
    return [np.array(sorted(rows), int) for rows in chosen]


def deliveries(
    pairs: Sequence[Pair],
    owners: Sequence[Owner],
    *,
    share: str,
    one_hot: Sequence[Sequence[str]],
    search: SearchConfig,
    seed: tuple[int, int],
    n_jobs: int | None,
    progress_bar: bool,
) -> list[Delivery]:
    """Compute what every pair sends, in parallel threads, each pair with its own random generator."""
    jobs = (
        delayed(_deliver)(owners[pair.teacher], pair, chosen, share, one_hot, search, seed)
        for pair, chosen in zip(pairs, most_confident(pairs, owners), strict=True)
    )
    made = Parallel(n_jobs=n_jobs, prefer="threads", return_as="generator")(jobs)
    return list(tqdm(made, total=len(pairs), desc=f"round {seed[1]}", unit="pair", disable=not progress_bar))


def report(pair: Pair, delivery: Delivery, owners: Sequence[Owner], round_: int) -> Lesson:
    """Complete the lesson once the student is refitted."""
    teacher, student = owners[pair.teacher], owners[pair.student]
    now_right = _answers(student, teacher, pair.qualified, pair.names) == teacher.table.labels[pair.qualified]
    return Lesson(
        round=round_,
        teacher=teacher.name,
        student=student.name,
        shared_features=len(pair.names),
        qualified=len(pair.qualified),
        sent=len(delivery.rows),
        learned=int(now_right.sum()),
        **delivery.facts,  # type: ignore[arg-type]
    )


def _answers(student: Owner, teacher: Owner, rows: np.ndarray, names: Sequence[str]) -> np.ndarray:
    """The student's predictions for rows of the teacher's."""
    if not len(rows):
        return teacher.table.labels[rows]
    seen = teacher.table.rows[np.ix_(rows, teacher.table.columns(names))]
    return student.predict(student.complete(seen, names))


def _deliver(
    teacher: Owner,
    pair: Pair,
    chosen: np.ndarray,
    share: str,
    one_hot: Sequence[Sequence[str]],
    search: SearchConfig,
    seed: tuple[int, int],
) -> Delivery:
    """Counterfactuals of the chosen rows, or what a baseline sends instead."""
    shared, labels = teacher.table.columns(pair.names), teacher.table.labels
    generator = np.random.default_rng(np.random.SeedSequence((*seed, pair.teacher, pair.student)))
    if share == "counterfactuals" and len(chosen):
        groups = [teacher.table.columns(group) for group in one_hot if set(group) <= set(pair.names)]
        found = counterfactuals(teacher, chosen, shared, groups, search, generator)
        sent = found.usable
        facts = {
            "chosen": len(chosen),
            "not_surer": int((~found.more_confident).sum()),
            "not_new": int((found.more_confident & ~found.new).sum()),
            "distance": _mean(found.distance[sent]),
            "before": _mean(found.before[sent]),
            "after": _mean(found.after[sent]),
        }
        return Delivery(found.rows[sent][:, shared], labels[chosen[sent]], facts)
    rows, labels = chosen, labels[chosen]
    if share == "teacher_labels":
        rows = generator.choice(len(teacher.table.rows), len(chosen), replace=False)
        labels = teacher.predict(teacher.table.rows[rows]) if len(rows) else labels
    surest = (
        teacher.proba(teacher.table.rows[rows])[np.arange(len(rows)), teacher.class_index(labels)]
        if len(rows)
        else rows
    )
    facts = {"chosen": len(chosen), "not_surer": 0, "not_new": 0, "distance": 0.0 if len(rows) else np.nan}
    facts |= {"before": _mean(surest), "after": _mean(surest)}
    return Delivery(teacher.table.rows[np.ix_(rows, shared)], labels, facts)


def _mean(values: np.ndarray) -> float:
    return float(values.mean()) if len(values) else float("nan")
