"""How heavy may RID's and VID's loss be? Weights from 1 to 1,000, sums and means, with a good and a useless teacher.

The setting is that of ``teachers``: on MNIST digits an MLP of 256 hidden units teaches MLPs of 32 that see 300 digits.
Finished runs are kept: start it again to go on.
"""

from __future__ import annotations

import itertools
import sys
from typing import NamedTuple

import torch
import tyro
from tqdm import tqdm

from experiments.measurements import Measurements, mean_std
from experiments.rid.teachers import FEATURES, Options, make_teachers, taught, tested
from policykd.benchmark.documents import publish
from policykd.classification.data.mnist_5k import load_mnist_5k
from policykd.classification.data.views import Examples
from policykd.cli import guarded
from policykd.core.files import write_text

WIDTH = 32
METHODS, REDUCTIONS, WEIGHTS = ("vid", "rid"), ("sum", "mean"), (1, 10, 100, 1_000)
TEACHERS = ("trained", "untrained")


class Case(NamedTuple):
    """A student: who teaches it, and by which loss."""

    teacher: str
    method: str
    reduction: str
    weight: int


NONE = Case("none", "cross_entropy", "none", 0)
"""No distillation."""
CASES = (NONE, *itertools.starmap(Case, itertools.product(TEACHERS, METHODS, REDUCTIONS, WEIGHTS)))
KEYS, VALUES = ("seed", *Case._fields), ("accuracy", "feature_std")


def main(options: Options) -> None:
    """Run what is missing, then write the table."""
    rows = Measurements(options.out / "sweep.csv", KEYS, VALUES)
    if not options.report:
        torch.set_num_threads(1)
        digits = load_mnist_5k(options.data)
        for seed in options.seeds:
            one_seed(rows, seed, digits.train, digits.test, options.epochs)
    text = table(rows)
    write_text(options.out / "sweep.md", text)
    publish(text, options.page, "sweep table")
    print(text)


def one_seed(rows: Measurements, seed: int, train: Examples, test: Examples, epochs: int) -> None:
    """The students of one seed that are missing."""
    missing = [case for case in CASES if not rows.has(seed=seed, **case._asdict())]
    if not missing:
        return
    teachers = make_teachers(seed, train)
    for case in tqdm(missing, desc=f"seed {seed}", unit="student", disable=None):
        own = {} if case == NONE else {**FEATURES, "reduction": case.reduction, "weight": float(case.weight)}
        student = taught(case.method, own, WIDTH, seed, teachers[case.teacher], train, epochs).student
        rows.add({"seed": seed, **case._asdict(), **tested(student, test, 0.0)})


def table(rows: Measurements) -> str:
    """Accuracy by weight, a line per teacher, method and reduction."""
    lines = ["| teacher | method | " + " | ".join(f"weight {weight:,}" for weight in WEIGHTS) + " |"]
    lines.append("|---|---|" + "---|" * len(WEIGHTS))
    none = mean_std(rows.values("accuracy", **NONE._asdict()))
    lines.append(f"| none | no distillation | {none} |" + " |" * (len(WEIGHTS) - 1))
    for teacher, method, reduction in itertools.product(TEACHERS, METHODS, REDUCTIONS):
        key = {"teacher": teacher, "method": method, "reduction": reduction}
        cells = " | ".join(mean_std(rows.values("accuracy", weight=weight, **key)) for weight in WEIGHTS)
        lines.append(f"| {teacher} | {method.upper()}, {reduction} | {cells} |")
    seeds = len({row["seed"] for row in rows.rows})
    return "\n".join(lines) + f"\n\nTest accuracy: mean (standard deviation) over {seeds} seeds.\n"


if __name__ == "__main__":
    guarded(lambda: main(tyro.cli(Options, args=sys.argv[1:], description=__doc__)))
