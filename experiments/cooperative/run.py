"""Cooperative distillation on real data, beside sharing raw rows, unfocused sharing and plain distillation.

    python -m experiments.cooperative.run --data FOLDER      # with the two package files that uci.py names
    python -m experiments.cooperative.run --report           # tables and pictures from the rows that are there

    experts    ten MLPs on digits, each of which has never seen one class (the paper's experiment 5)
    halves     an MLP and a tree on digits, with half-overlapping columns, each without three classes
    uci        four learners of different kinds on UCI sets, each with half of the features in common with all others
               and a quarter of the rest to itself, with a quarter of the rows to itself, and few of one class
    uci, even  the same with rows that are split at random: no learner is poor in a class

Rows are added as they come, and what is there is not made again: stop it and start it at will. Without --data, the UCI
sets are left out.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
import tyro
from sklearn.base import clone
from sklearn.datasets import load_digits
from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier
from sklearn.model_selection import train_test_split
from sklearn.pipeline import Pipeline
from sklearn.tree import DecisionTreeClassifier
from tqdm import tqdm

from experiments.cooperative.report import EVEN, UCI, write_report
from experiments.cooperative.uci import ADULT, KEEL, find, load_uci
from experiments.measurements import Measurements
from policykd.cli import guarded
from policykd.cli.output import say
from policykd.cooperation.cooperative import CooperativeDistillation, make_owners
from policykd.cooperation.learners import LEARNERS
from policykd.cooperation.owners import Owner, shared_names
from policykd.cooperation.picture import teaching_graph
from policykd.cooperation.tables import Dataset
from policykd.cooperation.torch_classifier import TorchClassifier

MOST_ROWS, MOST_TEST = 1_000, 5_000
"""Rows to train on, over all four learners, and to test on: of larger sets as many are drawn by the seed."""
KEPT = 0.1
"""Share of its rows of one class, another one for each, that a learner of a UCI set keeps."""
DISTILLED = 0.5
"""Weight of the teacher's answers in plain distillation; the labels weigh the rest."""
ARMS = ("counterfactuals", "instances", "teacher_labels")


class Task(NamedTuple):
    """What one seed of one experiment works on."""

    learners: dict[str, Any]
    own: list[Dataset]
    test: list[Dataset]
    one_hot: list[list[str]]


@dataclass(frozen=True)
class Options:
    """Measure cooperative distillation and what it competes with."""

    data: Path | None = None
    """Folder of the package files with the UCI sets. Default: POLICYKD_DATA."""
    out: Path = Path("results/cooperative")
    """Folder of the raw rows, tables and pictures."""
    page: Path = Path("docs/methods/cooperative.md")
    """The document that shows the tables between its markers."""
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    """A split of the data, and learners, each."""
    experiments: tuple[str, ...] = ("halves", "experts", *UCI, *EVEN)
    """Which to run."""
    report: bool = False
    """Only write tables and pictures of what is there."""


KEYS, VALUES = ("data", "seed", "arm", "learner", "teacher"), ("accuracy", "sent", "distance", "seconds")


def main(options: Options) -> None:
    """Run what is missing, then write tables and pictures."""
    rows = Measurements(options.out / "rows.csv", KEYS, VALUES)
    if not options.report:
        torch.set_num_threads(1)
        for seed in options.seeds:
            for name in tqdm(options.experiments, desc=f"seed {seed}", unit="data set", disable=None):
                one_seed(rows, name, seed, options)
    write_report(rows, options.out, options.page)


def one_seed(rows: Measurements, name: str, seed: int, options: Options) -> None:
    """All arms of one seed of one experiment."""
    missing = [arm for arm in (*ARMS, "distilled") if not rows.has(data=name, seed=seed, arm=arm)]
    if not missing:
        return
    if name in (*UCI, *EVEN) and find(ADULT if name.startswith("adult") else KEEL, options.data) is None:
        say(f"{name}: no package file, left out (see --help)")
        return
    task = make_task(name, seed, options.data)
    for arm in missing:
        started = time.perf_counter()
        found = distilled(task, seed) if arm == "distilled" else together(task, seed, arm, name, options)
        seconds = time.perf_counter() - started
        keys = {"data": name, "seed": seed, "arm": arm, "seconds": round(seconds, 2)}
        rows.add(*({**keys, **row, "arm": row.get("arm", arm)} for row in found if keep(rows, name, seed, row)))


def keep(rows: Measurements, name: str, seed: int, row: dict[str, Any]) -> bool:
    """The learners alone are the same in every arm: once is enough."""
    return row.get("arm") != "alone" or not rows.has(data=name, seed=seed, arm="alone", learner=row["learner"])


def together(task: Task, seed: int, share: Any, name: str, options: Options) -> list[dict[str, Any]]:
    """Accuracy of every learner before and after one round."""
    cooperation = CooperativeDistillation(task.learners, share=share, one_hot=task.one_hot, random_state=seed)
    cooperation.fit(task.own, task.test)
    if share == "counterfactuals" and name == "vehicle" and seed == options.seeds[0]:
        title = f"Who taught whom: {name}, seed {seed}"
        teaching_graph(cooperation.lessons_, cooperation.accuracy_, options.out / "teaching.png", title=title)
    got = cooperation.lessons_.groupby("student")
    found = []
    for _, row in cooperation.accuracy_.iterrows():
        facts = {"learner": row["learner"], "teacher": "all", "accuracy": round(row["validation"], 5)}
        if row["round"] == 0:
            found.append({**facts, "arm": "alone", "teacher": "none", "sent": 0, "distance": 0.0})
        else:
            lessons = got.get_group(row["learner"])
            distance = (lessons["distance"] * lessons["sent"]).sum() / max(lessons["sent"].sum(), 1)
            found.append({**facts, "sent": lessons["sent"].sum(), "distance": round(float(distance), 4)})
    return found


def distilled(task: Task, seed: int) -> list[dict[str, Any]]:
    """Accuracy of every learner that has learned from its labels and from one teacher's answers to its own rows.

    Once from each of the others.
    """
    owners = make_owners(task.learners, task.own, seed)
    for owner in owners:
        owner.fit()
    found = []
    for j, student in enumerate(owners):
        for teacher in owners[:j] + owners[j + 1 :]:
            learner = distil(student, teacher)
            test = task.test[j]
            rows = pd.DataFrame(test.features)[list(student.table.names)].to_numpy(float)
            accuracy = float((learner.predict(student.as_given(rows)) == test.labels).mean())
            facts = {"learner": student.name, "teacher": teacher.name, "accuracy": round(accuracy, 5)}
            found.append({**facts, "sent": 0, "distance": 0.0})
    return found


def distil(student: Owner, teacher: Owner) -> Any:
    """Hinton's distillation without a temperature for any learner that takes weights: a row counts for each class.

    The teacher answers the student's rows in the features of both; what it lacks is taken from its own nearest row.
    """
    names, table = shared_names(teacher, student), student.table
    answers = teacher.proba(teacher.complete(table.rows[:, table.columns(names)], names))
    rows, labels, weights = [table.rows], [table.labels], [np.full(len(table.rows), 1 - DISTILLED)]
    for column, label in enumerate(teacher.learner.classes_):
        heard = np.flatnonzero(answers[:, column] > 0.01)
        rows.append(table.rows[heard])
        labels.append(np.full(len(heard), label))
        weights.append(DISTILLED * answers[heard, column])
    learner = clone(student.unfitted)
    key = f"{learner.steps[-1][0]}__sample_weight" if isinstance(learner, Pipeline) else "sample_weight"
    presented = student.as_given(np.concatenate(rows))
    return learner.fit(presented, np.concatenate(labels), **{key: np.concatenate(weights)})


def make_task(name: str, seed: int, folder: Path | None) -> Task:
    """Learners and data of one experiment."""
    return {"experts": experts, "halves": halves}.get(
        name, lambda s: uci(name.removesuffix(", even"), s, folder, name in EVEN)
    )(seed)


def digits(seed: int) -> tuple[pd.DataFrame, np.ndarray, np.ndarray, np.ndarray]:
    """Pixels, labels, and rows to train and to test on."""
    inputs, labels = load_digits(return_X_y=True)
    train, test = train_test_split(np.arange(len(labels)), test_size=0.2, stratify=labels, random_state=seed)
    names = [f"row{row}_column{column}" for row in range(8) for column in range(8)]
    return pd.DataFrame(inputs, columns=names), labels, train, test


def experts(seed: int) -> Task:
    """Ten MLPs, each with all rows but those of one class."""
    pixels, labels, train, test = digits(seed)
    own = []
    for missing in range(10):
        rows = train[labels[train] != missing]
        own.append(Dataset(pixels.iloc[rows], labels[rows], instances=rows.tolist()))
    learners = {f"without_{k}": TorchClassifier(epochs=30) for k in range(10)}
    return Task(learners, own, [Dataset(pixels.iloc[test], labels[test])] * 10, [])


def halves(seed: int) -> Task:
    """An MLP on columns 0 to 5 without 0, 1, 2, and a tree on columns 2 to 7 without 7, 8, 9."""
    pixels, labels, train, test = digits(seed)
    own, held = [], []
    for columns, missing in ((range(6), (0, 1, 2)), (range(2, 8), (7, 8, 9))):
        rows = train[~np.isin(labels[train], missing)]
        seen = pixels[[name for name in pixels if int(name[-1]) in columns]]
        own.append(Dataset(seen.iloc[rows], labels[rows], instances=rows.tolist()))
        held.append(Dataset(seen.iloc[test], labels[test]))
    learners = {"mlp": TorchClassifier(epochs=30), "tree": DecisionTreeClassifier()}
    return Task(learners, own, held, [])


def uci(name: str, seed: int, folder: Path | None, even: bool) -> Task:
    """Four kinds of learners with features partly their own, and own rows, poor in one class unless ``even``."""
    data, generator = load_uci(name, folder), np.random.default_rng(seed)
    if data.test is None:
        train, test = train_test_split(
            np.arange(len(data.labels)), test_size=0.25, stratify=data.labels, random_state=seed
        )
    else:
        train, test = np.setdiff1d(np.arange(len(data.labels)), data.test), generator.permutation(data.test)
    train, test = generator.permutation(train)[:MOST_ROWS], test[:MOST_TEST]
    learners = {
        "forest": RandomForestClassifier(100),
        "boosting": HistGradientBoostingClassifier(max_iter=50),
        "mlp": TorchClassifier(epochs=40, batch_size=32),
        "logistic": LEARNERS["logistic"](),
    }
    order = generator.permutation(len(data.parts))
    common, private = np.array_split(order, 2)
    classes, own, held = np.unique(data.labels), [], []
    for k in range(len(learners)):
        parts = np.sort(np.concatenate([common, private[k :: len(learners)]]))
        seen = data.features[[column for part in parts for column in data.parts[part]]]
        rows = train[k :: len(learners)]
        poor = data.labels[rows] == classes[k % len(classes)]
        kept = rows if even else rows[~poor | (np.cumsum(poor) <= max(2, KEPT * poor.sum()))]
        own.append(Dataset(seen.iloc[kept], data.labels[kept]))
        held.append(Dataset(seen.iloc[test], data.labels[test]))
    return Task(learners, own, held, data.one_hot)


if __name__ == "__main__":
    guarded(lambda: main(tyro.cli(Options)))
