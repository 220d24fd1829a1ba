"""Statistics of a benchmark by rliable (Agarwal et al. 2021): interquartile means with stratified-bootstrap intervals.

The score of a group of peers is one number, by a rule declared before the final evaluation:

* ``selected``: the final return of the peer that did best in the last evaluation during training. Its final return is
  from other episodes, so the selection does not bias it.
* ``mean``: the mean final return of all peers.

For single agents both are equal.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

from policykd.benchmark.bootstrap import Estimate, interval, iqm, median, optimality_gap, probability_of_improvement
from policykd.benchmark.results import Results
from policykd.benchmark.rows import AS_ONE, Row
from policykd.benchmark.spec import Cell, Reference, Spec
from policykd.core.errors import PolicyKDError

Rule = Literal["selected", "mean"]
RULES: tuple[Rule, ...] = ("selected", "mean")
METRICS = ("IQM", "median", "optimality gap")
REFERENCES = ("sb3", "independent")
"""Methods over which the probability of improvement is computed."""
RESAMPLES = 2_000
"""Bootstrap resamples per interval in tables."""
CURVE_RESAMPLES = 500
"""Bootstrap resamples per interval of curves and profiles, which have many points."""
PROFILE_POINTS = 61


@dataclass(frozen=True)
class Scores:
    """Scores of a cell with S seeds, P learners per group and E evaluations."""

    steps: np.ndarray
    """Environment steps of a group at each evaluation, ``(E,)``."""
    curve: np.ndarray
    """Mean returns during training, ``(S, P, E)``."""
    final: np.ndarray
    """Mean returns of the final evaluation, ``(S, P)``."""
    as_one: dict[str, np.ndarray]
    """Mean returns ``(S,)`` of each way to form one policy from a group (``Row.phase``); empty for single learners."""
    updates: int
    """Gradient updates, over all learners of a group."""
    seconds: float
    """Training seconds of one group; groups trained at once share them equally."""
    seconds_as_one: dict[str, float]
    """The same for ``as_one``; the student's include distillation."""

    def by(self, rule: Rule) -> np.ndarray:
        """Score of every seed by a rule, ``(S,)``."""
        if rule == "mean":
            return self.final.mean(1)
        selected = self.curve[:, :, -1].argmax(1)
        return self.final[np.arange(len(self.final)), selected]


@dataclass(frozen=True)
class TaskSummary:
    """Results of a method on one task."""

    scores: Scores
    iqm: dict[Rule, Estimate]
    """Interquartile mean over seeds of the final returns."""
    curve: Estimate
    """Interquartile mean over seeds of the mean return of the peers, at every evaluation, ``(E,)``."""


@dataclass(frozen=True)
class MethodSummary:
    """Results of a method with one backbone over all tasks."""

    tasks: dict[str, TaskSummary]
    aggregate: dict[Rule, dict[str, Estimate]] | None
    """Normalised scores over all tasks of the backbone, by metric; None while a task is missing."""
    better: dict[Rule, dict[str, Estimate]]
    """Probability of improvement over each reference method with the same tasks."""
    curve: Estimate | None
    """Sample efficiency: the interquartile mean of normalised scores at every evaluation, ``(E,)``."""
    profile: dict[Rule, Estimate] | None
    """Performance profile: the fraction of runs above each of ``Summary.taus``."""


@dataclass(frozen=True)
class Summary:
    """All statistics shown by the tables and the page."""

    spec: Spec
    backbones: dict[str, dict[str, MethodSummary]]
    """Methods with results, by backbone and in the spec's order."""
    missing: list[str]
    """Names of cells without results."""
    failures: dict[str, str]
    """Why cells failed, by cell name."""
    taus: np.ndarray
    """Thresholds of the performance profiles."""


def summarise(results: Results) -> Summary:
    """Compute all statistics from the raw rows.

    Raises:
        PolicyKDError: a file is missing or damaged, or rliable is not installed.
    """
    spec = results.spec()
    done = results.done(spec.cells)
    files: dict[str, dict[str, list[str]]] = {}
    scores = {c.name: (c, read_scores(c, results.rows(c, files))) for c in spec.cells if c.name in done}
    taus = _taus(spec, scores)
    backbones: dict[str, dict[str, MethodSummary]] = {}
    for backbone in dict.fromkeys(b for task in spec.tasks.values() for b in task.backbones):
        table = _by_method(spec, backbone, scores)
        if table:
            backbones[backbone] = {m: _summarise_method(spec, backbone, m, table, taus) for m in table}
    missing = [cell.name for cell in spec.cells if cell.name not in done]
    # Without failures of earlier specs, or of cells whose results were since copied from elsewhere.
    failures = {name: text for name, text in results.failures().items() if name in missing}
    return Summary(spec, backbones, missing, failures, taus)


def read_scores(cell: Cell, rows: list[Row]) -> Scores:
    """Convert the rows of a cell to arrays.

    Raises:
        PolicyKDError: a row is missing, duplicated, foreign to the cell, or not a number.
    """
    shape = len(cell.seeds), cell.peers
    steps = np.array([cell.eval_freq * (e + 1) for e in range(cell.evaluations)])
    curve, final = np.full((*shape, len(steps)), np.nan), np.full(shape, np.nan)
    as_one: dict[str, np.ndarray] = {}
    numbers = {int(step): e for e, step in enumerate(steps)}
    for r in rows:
        known = r.phase in ("curve", "final", *AS_ONE) and r.steps in numbers
        if not known or r.seed not in cell.seeds or not 0 <= r.learner < cell.peers:
            which = f"{r.phase}, seed {r.seed}, learner {r.learner}, step {r.steps}"
            raise PolicyKDError(f"results: {cell.name} has a row for {which}, which is not part of it")
        seed = cell.seeds.index(r.seed)
        if r.phase == "final":
            final[seed, r.learner] = r.mean
        elif r.phase == "curve":
            curve[seed, r.learner, numbers[r.steps]] = r.mean
        else:
            as_one.setdefault(r.phase, np.full(len(cell.seeds), np.nan))[seed] = r.mean
    parts = [curve, final, *as_one.values()]
    if len(rows) != (wanted := sum(part.size for part in parts)):
        raise PolicyKDError(f"results: {cell.name} has {len(rows)} rows, not {wanted}")
    if not all(np.isfinite(part).all() for part in parts):
        raise PolicyKDError(
            f"results: {cell.name} lacks evaluations of a learner, or has one that is not a number: delete "
            f"{cell.name}.json to run the cell again"
        )
    ends = [r for r in rows if r.phase == "final" and r.learner == 0]
    total = sum(r.seconds for r in ends) if cell.is_sb3 else ends[0].seconds
    seconds_as_one = {r.phase: r.seconds / len(cell.seeds) for r in rows if r.phase in AS_ONE}
    return Scores(steps, curve, final, as_one, ends[0].updates, total / len(cell.seeds), seconds_as_one)


def normalise(returns: np.ndarray, reference: Reference) -> np.ndarray:
    """Normalise returns to 0 and 1 at a task's reference returns."""
    return (returns - reference.low) / (reference.high - reference.low)


Table = Mapping[str, Mapping[str, Scores]]
"""Scores by method and task."""


def _by_method(spec: Spec, backbone: str, scores: dict[str, tuple[Cell, Scores]]) -> Table:
    table: dict[str, dict[str, Scores]] = {}
    for cell, found in scores.values():
        if cell.backbone == backbone:
            table.setdefault(cell.method, {})[cell.task] = found
    return {method: table[method] for method in spec.methods if method in table}


def _summarise_method(spec: Spec, backbone: str, method: str, table: Table, taus: np.ndarray) -> MethodSummary:
    mine = table[method]
    whole = list(mine) == [name for name, task in spec.tasks.items() if backbone in task.backbones]
    matrix = _matrix(spec, mine, list(mine))
    per_task, aggregate = _finals(matrix)
    curves = [normalise(scores.curve.mean(1), spec.tasks[name].reference) for name, scores in mine.items()]
    along = _split(interval(np.stack(curves, 1), _curves, CURVE_RESAMPLES), len(mine) + 1)
    tasks = {
        name: TaskSummary(
            scores,
            {rule: _returns(per_task[t][r], spec.tasks[name].reference) for r, rule in enumerate(RULES)},
            _returns(along[t], spec.tasks[name].reference),
        )
        for t, (name, scores) in enumerate(mine.items())
    }
    return MethodSummary(
        tasks,
        {rule: dict(zip(METRICS, aggregate[r], strict=True)) for r, rule in enumerate(RULES)} if whole else None,
        _better(spec, method, table),
        along[-1] if whole else None,
        {rule: _profile(matrix[:, :, r], taus) for r, rule in enumerate(RULES)} if whole else None,
    )


def _finals(matrix: np.ndarray) -> tuple[list[list[Estimate]], list[list[Estimate]]]:
    """IQMs by task and rule, and all metrics by rule, from normalised scores ``(runs, tasks, rules)``."""

    def statistics(x: np.ndarray) -> np.ndarray:
        whole = np.array([iqm(x.reshape(-1, x.shape[2])), median(x), optimality_gap(x)])
        return np.concatenate([iqm(x).ravel(), whole.T.ravel()])

    _, tasks, rules = matrix.shape
    parts = [Estimate(*map(float, part)) for part in zip(*interval(matrix, statistics, RESAMPLES), strict=True)]
    per_task, aggregate = parts[: tasks * rules], parts[tasks * rules :]
    return (
        [per_task[t * rules : (t + 1) * rules] for t in range(tasks)],
        [aggregate[r * len(METRICS) : (r + 1) * len(METRICS)] for r in range(rules)],
    )


def _better(spec: Spec, method: str, table: Table) -> dict[Rule, dict[str, Estimate]]:
    better: dict[Rule, dict[str, Estimate]] = {rule: {} for rule in RULES}
    tasks = list(table[method])
    for other in REFERENCES:
        if other != method and other in table and set(tasks) <= set(table[other]):
            pair = [_matrix(spec, table[name], tasks) for name in (method, other)]
            by_rule = _split(interval(pair, probability_of_improvement, RESAMPLES), len(RULES))
            for rule, estimate in zip(RULES, by_rule, strict=True):
                better[rule][other] = Estimate(*(float(part[0]) for part in estimate))
    return better


def _profile(matrix: np.ndarray, taus: np.ndarray) -> Estimate:
    """Fraction of runs and tasks above each threshold, from ``(runs, tasks)``."""
    return interval(matrix, lambda x: (x[..., None] > taus).mean((0, 1)), CURVE_RESAMPLES)


def _curves(x: np.ndarray) -> np.ndarray:
    """IQMs at every evaluation, per task and then over all: ``(runs, tasks, E)`` to ``((tasks + 1) * E,)``."""
    return np.concatenate([iqm(x).ravel(), iqm(x.reshape(-1, x.shape[-1]))])


def _matrix(spec: Spec, mine: Mapping[str, Scores], tasks: list[str]) -> np.ndarray:
    """Normalised scores ``(runs, tasks, rules)``."""
    columns = [[normalise(mine[name].by(rule), spec.tasks[name].reference) for rule in RULES] for name in tasks]
    return np.array(columns).transpose(2, 0, 1)


def _split(estimate: Estimate, parts: int) -> list[Estimate]:
    """Split an estimate of concatenated values."""
    return [Estimate(*part) for part in zip(*(np.split(values, parts) for values in estimate), strict=True)]


def _returns(scores: Estimate, reference: Reference) -> Estimate:
    """Convert normalised scores back to returns (interquartile means commute with shift and scale)."""
    return Estimate(*(reference.low + part * (reference.high - reference.low) for part in scores))


def _taus(spec: Spec, scores: dict[str, tuple[Cell, Scores]]) -> np.ndarray:
    """Thresholds from 0 to the highest score."""
    best = [normalise(found.final, spec.tasks[cell.task].reference).max() for cell, found in scores.values()]
    return np.linspace(0, max([0.1, *best]), PROFILE_POINTS)
