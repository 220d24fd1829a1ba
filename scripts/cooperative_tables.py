"""Cooperative distillation on real data, beside sharing raw rows, unfocused sharing and plain distillation.

    python scripts/cooperative_tables.py --data FOLDER      # the two package files (see policykd/cooperation/uci.py)
    python scripts/cooperative_tables.py --report           # tables and pictures from the rows that are there

    experts    ten MLPs on digits, each of which has never seen one class (the paper's experiment 5)
    halves     an MLP and a tree on digits, with half-overlapping columns, each without three classes
    uci        four learners of different kinds on UCI sets, each with half of the features in common with all others
               and a quarter of the rest to itself, with a quarter of the rows to itself, and few of one class

Rows are added as they come, and what is there is not made again: stop it and start it at will. Without --data, the UCI
sets are left out.
"""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
import tyro
from matplotlib.figure import Figure
from scipy import stats
from sklearn.base import clone
from sklearn.datasets import load_digits
from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier
from sklearn.model_selection import train_test_split
from sklearn.pipeline import Pipeline
from sklearn.tree import DecisionTreeClassifier
from tqdm import tqdm

from policykd.agents.run_folder import write_bytes, write_text
from policykd.benchmark.measurements import Measurements, publish
from policykd.cli import guarded
from policykd.cli.output import say
from policykd.cooperation.cooperative import CooperativeDistillation, make_owners
from policykd.cooperation.learners import LEARNERS
from policykd.cooperation.owners import Owner, shared_names
from policykd.cooperation.picture import teaching_graph
from policykd.cooperation.tables import Dataset
from policykd.cooperation.torch_classifier import TorchClassifier
from policykd.cooperation.uci import ADULT, KEEL, find, load_uci
from policykd.plots import COLOURS, INK

UCI = ("wdbc", "vehicle", "segment", "satimage", "phoneme", "german", "australian", "pima", "spambase", "adult")
"""Two to seven classes, 569 to 48,842 rows; german and adult have nominal features."""
MOST_ROWS, MOST_TEST = 2_000, 5_000
"""Rows to train on, over all four learners, and to test on: of larger sets as many are drawn by the seed."""
KEPT = 0.1
"""Share of its rows of one class, another one for each, that a learner of a UCI set keeps."""
DISTILLED = 0.5
"""Weight of the teacher's answers in plain distillation; the labels weigh the rest."""
ARMS = ("counterfactuals", "instances", "teacher_labels")
TITLES = {
    "alone": "alone",
    "counterfactuals": "counterfactuals",
    "instances": "raw rows",
    "teacher_labels": "unfocused",
    "distilled": "plain KD",
}


class Task(NamedTuple):
    """What one seed of one experiment works on."""

    learners: dict[str, Any]
    own: list[Dataset]
    test: list[Dataset]
    one_hot: list[list[str]]
    distil_from: Callable[[int], Sequence[int]]
    """Teachers of a student in plain distillation."""


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
    experiments: tuple[str, ...] = ("halves", "experts", *UCI)
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
    write_report(rows, options)


def one_seed(rows: Measurements, name: str, seed: int, options: Options) -> None:
    """All arms of one seed of one experiment."""
    missing = [arm for arm in (*ARMS, "distilled") if not rows.has(data=name, seed=seed, arm=arm)]
    if not missing:
        return
    if name in UCI and find(ADULT if name == "adult" else KEEL, options.data) is None:
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
    """Accuracy of every learner that has learned from its labels and from one teacher's answers to its own rows."""
    owners = make_owners(task.learners, task.own, seed)
    for owner in owners:
        owner.fit()
    found = []
    for j, student in enumerate(owners):
        for i in task.distil_from(j):
            learner = distil(student, owners[i])
            test = task.test[j]
            rows = pd.DataFrame(test.features)[list(student.table.names)].to_numpy(float)
            accuracy = float((learner.predict(student.presented(rows)) == test.labels).mean())
            facts = {"learner": student.name, "teacher": owners[i].name, "accuracy": round(accuracy, 5)}
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
    presented = student.presented(np.concatenate(rows))
    return learner.fit(presented, np.concatenate(labels), **{key: np.concatenate(weights)})


def make_task(name: str, seed: int, folder: Path | None) -> Task:
    """Learners and data of one experiment."""
    return {"experts": experts, "halves": halves}.get(name, lambda s: uci(name, s, folder))(seed)


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
    return Task(learners, own, [Dataset(pixels.iloc[test], labels[test])] * 10, [], lambda j: [(j + 1) % 10])


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
    return Task(learners, own, held, [], lambda j: [1 - j])


def uci(name: str, seed: int, folder: Path | None) -> Task:
    """Four kinds of learners with features partly their own, and rows of their own that are poor in one class."""
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
        kept = rows[~poor | (np.cumsum(poor) <= max(2, KEPT * poor.sum()))]
        own.append(Dataset(seen.iloc[kept], data.labels[kept]))
        held.append(Dataset(seen.iloc[test], data.labels[test]))
    return Task(learners, own, held, data.one_hot, lambda j: [i for i in range(len(learners)) if i != j])


def write_report(rows: Measurements, options: Options) -> None:
    """Tables into the document, and the picture of all gains."""
    frame = rows.where()
    if frame.empty:
        return
    parts = {
        "experts": experts_table(frame[frame["data"] == "experts"]),
        "halves": halves_table(frame[frame["data"] == "halves"]),
        "uci": uci_table(frame[frame["data"].isin(UCI)]),
    }
    for name, table in parts.items():
        if table:
            publish(table, options.page, f"{name} table")
            say(f"{name}\n{table}")
    write_text(options.out / "tables.md", "\n".join(table for table in parts.values() if table))
    draw(frame, options.out / "gains.png")


def experts_table(frame: pd.DataFrame) -> str:
    """Median, worst and number of improved among the ten, means over seeds."""
    if frame.empty:
        return ""
    by_seed = frame.pivot_table(index=["seed", "learner"], columns="arm", values="accuracy")
    lines = [
        "| | seeds | median of ten, % | worst of ten, % | improved, fewest of ten in any seed |",
        "|---|" + "---:|" * 4,
    ]
    for arm in [arm for arm in TITLES if arm in by_seed]:
        table = by_seed[arm].unstack("seed").dropna(axis=1)
        gained = table > by_seed["alone"].unstack("seed")[table.columns]
        improved = "" if arm == "alone" else str(int(gained.sum().min()))
        median, worst = interval(100 * table.median()), interval(100 * table.min())
        lines.append(f"| {TITLES[arm]} | {table.shape[1]} | {median} | {worst} | {improved} |")
    return "\n".join(lines) + "\n\n" + sent_line(frame)


def halves_table(frame: pd.DataFrame) -> str:
    """Accuracy of either learner."""
    if frame.empty:
        return ""
    lines = ["| | seeds | MLP, % | tree, % | seeds in which both improved |", "|---|" + "---:|" * 4]
    by_seed = frame.pivot_table(index="seed", columns=["arm", "learner"], values="accuracy")
    for arm in [arm for arm in TITLES if arm in by_seed]:
        table = by_seed[arm].dropna()
        both = int((table > by_seed["alone"].loc[table.index]).all(axis=1).sum())
        cells = [interval(100 * table[learner]) for learner in ("mlp", "tree")]
        lines.append(f"| {TITLES[arm]} | {len(table)} | {' | '.join(cells)} | {'' if arm == 'alone' else both} |")
    return "\n".join(lines) + "\n\n" + sent_line(frame)


def uci_table(frame: pd.DataFrame) -> str:
    """Accuracy alone, and gains paired by seed, means over the four learners."""
    if frame.empty:
        return ""
    arms = [arm for arm in TITLES if arm != "alone"]
    heads = [f"{TITLES[arm]}, points" for arm in arms]
    lines = [
        f"| data | seeds | alone, % | {' | '.join(heads)} | counterfactuals minus raw rows |",
        "|---|" + "---:|" * 7,
    ]
    gained = gains(frame)
    for name in [name for name in UCI if name in set(frame["data"])]:
        alone = frame[(frame["data"] == name) & (frame["arm"] == "alone")].groupby("seed")["accuracy"].mean()
        own = gained.loc[name]
        cells = [interval(100 * own[arm]) if arm in own else "-" for arm in arms]
        less = interval(100 * (own["counterfactuals"] - own["instances"])) if "instances" in own else "-"
        lines.append(f"| {name} | {len(own)} | {interval(100 * alone)} | {' | '.join(cells)} | {less} |")
    means = gained.groupby("data").mean()
    cells = [interval(100 * means[arm]) for arm in arms]
    less = interval(100 * (means["counterfactuals"] - means["instances"]))
    lines.append(f"| mean over the sets (interval over sets) | | | {' | '.join(cells)} | {less} |")
    return "\n".join(lines) + "\n\n" + kinds_line(frame) + sent_line(frame)


def gains(frame: pd.DataFrame) -> pd.DataFrame:
    """Accuracy minus that of the same learner alone: rows (data, seed), columns arms, means over the learners."""
    by_learner = frame.pivot_table(index=["data", "seed", "learner"], columns="arm", values="accuracy")
    arms = by_learner.drop(columns="alone").sub(by_learner["alone"], axis=0)
    return arms.groupby(["data", "seed"]).mean().dropna(how="all")


def kinds_line(frame: pd.DataFrame) -> str:
    """The gain of every kind of learner by counterfactuals."""
    by_learner = frame.pivot_table(index=["data", "learner"], columns="arm", values="accuracy")
    gain = (by_learner["counterfactuals"] - by_learner["alone"]).unstack("learner")
    words = ", ".join(f"{kind} {interval(100 * gain[kind])}" for kind in gain)
    return f"Gain by counterfactuals of each kind of learner, points, over the sets: {words}.\n"


def sent_line(frame: pd.DataFrame) -> str:
    """How much was sent."""
    own = frame[frame["arm"] == "counterfactuals"]
    rows, raw = own["sent"].mean(), frame.loc[frame["arm"] == "instances", "sent"].mean()
    return (
        f"A student received {rows:,.0f} counterfactuals, or {raw:,.0f} raw rows, on average; a counterfactual is "
        f"{own['distance'].mean():.2f} widths of the teacher's data (L1) away from its original.\n"
    )


def draw(frame: pd.DataFrame, path: Path) -> None:
    """Gain by data set and arm: mean over seeds with its interval."""
    gained = gains(frame)
    names = [name for name in ("experts", "halves", *UCI) if name in gained.index]
    figure = Figure(figsize=(7.6, 0.9 + 0.42 * len(names)), dpi=150, facecolor="white", layout="constrained")
    axes = figure.subplots()
    arms = [arm for arm in TITLES if arm in gained]
    for index, arm in enumerate(arms):
        points = np.array([mean_and_half(100 * gained.loc[name][arm]) for name in names]).T
        place = np.arange(len(names)) + 0.16 * (index - (len(arms) - 1) / 2)
        colour = COLOURS[index]
        axes.errorbar(
            points[0], place, xerr=points[1], fmt="o", markersize=4, capsize=2, color=colour, label=TITLES[arm]
        )
    axes.axvline(0, color="#b0b0b0", linewidth=1)
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.set_xscale("symlog", linthresh=10)
    axes.set_xticks([-10, -5, 0, 5, 10, 30], ["-10", "-5", "0", "5", "10", "30"])
    axes.set_xlabel("points of test accuracy against the same learners alone (mean and 95 % interval)", color=INK)
    axes.grid(axis="x", color="#e6e6e6", linewidth=0.8)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(colors=INK, length=0, labelsize=9)
    axes.legend(frameon=False, fontsize=8)
    content = io.BytesIO()
    figure.savefig(content, format="png", metadata={"Software": None})
    write_bytes(path, content.getvalue())


def mean_and_half(values: pd.Series) -> tuple[float, float]:
    """Mean and half width of its 95 % t-interval, which is NaN for fewer than two values."""
    known = values.dropna()
    if len(known) < 2:
        return float(known.mean()), float("nan")
    half = stats.t.ppf(0.975, len(known) - 1) * known.std(ddof=1) / np.sqrt(len(known))
    return float(known.mean()), float(half)


def interval(values: pd.Series) -> str:
    """Mean ± half width of the 95 % interval, or the mean alone."""
    mean, half = mean_and_half(values)
    return f"{mean:.1f}" + ("" if np.isnan(half) else f" ± {half:.1f}")


if __name__ == "__main__":
    guarded(lambda: main(tyro.cli(Options)))
