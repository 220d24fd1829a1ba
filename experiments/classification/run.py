"""All classification methods on one data set with equal student passes: raw rows, and a table with intervals.

    python -m experiments.classification.run --data-dir FOLDER      # or set POLICYKD_DATA; about 40 minutes
    python -m experiments.classification.run --table-only           # rewrite the table from the rows

FOLDER holds Fashion-MNIST's IDX files (Debian's package dataset-fashion-mnist has them). Every seed has a teacher of
its own, shared by all methods; students of one seed begin with the same weights. A row is appended when a student is
done, and rows that are there are not made again, so the command can be stopped and repeated at will.
"""

from __future__ import annotations

import csv
import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
import tyro
from matplotlib.figure import Figure
from torch import nn

from experiments.measurements import interval, mean_and_half
from policykd import Distiller
from policykd.benchmark.documents import publish
from policykd.classification.data.sets import Splits, load
from policykd.classification.models import make_model, parameters
from policykd.cli import guarded
from policykd.cli.output import say
from policykd.core.files import versions, write_text
from policykd.distillation.supervised.hinton import AS_PUBLISHED
from policykd.measure.plots import COLOURS, INK, save_figure

TEACHER, STUDENT = (32, 64, 128, 280), (8, 16, 32, 64)
LAST_MAP = {"student_features": ("blocks.2",), "teacher_features": ("blocks.2",)}
HIDDEN = {"student_features": ("hidden",), "teacher_features": ("hidden",)}
COMMON = {"batch_size": 128, "learning_rate": 2e-3, "learning_rate_schedule": "cosine"}
WARM = 4
GUIDED = {"teacher_features": ("blocks.2",), "top_k": 3, "warm_up_epochs": WARM}
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "cross_entropy": ("cross_entropy", {}),
    "label_smoothing": ("label_smoothing", {}),
    "hinton": ("hinton", AS_PUBLISHED),
    "hinton_ensemble": ("hinton", AS_PUBLISHED),
    "fitnets": ("fitnets", LAST_MAP),
    "rkd": ("rkd", HIDDEN),
    "vid": ("vid", LAST_MAP),
    "ted": ("ted", {**LAST_MAP, "warm_up_epochs": WARM}),
    "rid": ("rid", {**LAST_MAP, "filter_warm_up_epochs": 2, "cycle_epochs": 4}),
    "hinton_warm": ("hinton", {**AS_PUBLISHED, "warm_up_epochs": WARM}),
    "disk": ("disk", GUIDED),
    "disk_per_example": ("disk", {**GUIDED, "budget_per": "example"}),
}
"""Row of the table -> method and changed settings; the rest are the defaults. Nothing here was tuned."""
MEMBERS = 3
"""Teachers of an ensemble: the seed's own and the next ones."""
METRICS = ("accuracy", "agreement", "kl", "ece", "nll", "teacher_accuracy")


@dataclass(frozen=True)
class Options:
    """Measure all classification methods with equal student passes."""

    data: str = "fashion-mnist"
    """Data set (see policykd classify --help)."""
    data_dir: Path | None = None
    """Folder of its files; default: the environment variable POLICYKD_DATA."""
    examples: int = 20_000
    """Training examples to use; a tenth of them is for validation. The whole test set is used, once per student."""
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    """One teacher and one student per method for each."""
    variants: tuple[str, ...] = tuple(VARIANTS)
    """Rows of the table to make."""
    epochs: int = 12
    """Passes of every student over the training data."""
    teacher_epochs: int = 8
    """Passes of every teacher."""
    out: Path = Path("results/classification")
    """Folder of the raw rows."""
    teachers: Path = Path("runs/classification-teachers")
    """Folder where trained teachers are kept (never committed)."""
    page: Path = Path("docs/classification.md")
    """Page that has the table between two markers."""
    table_only: bool = False
    """Only write the table from the rows."""


def main(options: Options) -> None:
    """Make the rows that are missing, then the table."""
    rows = options.out / "fashion_mnist.csv"
    if not options.table_only:
        torch.set_num_threads(1)
        splits = load(options.data, options.data_dir, examples=options.examples)
        options.out.mkdir(parents=True, exist_ok=True)
        write_text(options.out / "fashion_mnist_versions.json", json.dumps(versions(), indent=2) + "\n")
        done = _done(rows)
        for seed in options.seeds:
            for variant in options.variants:
                if (variant, seed) not in done:
                    _append(rows, _one_student(options, splits, variant, seed))
    write_table(rows, options.page)
    say(f"picture {draw(pd.read_csv(rows), rows.with_suffix('.png'))}")


def _one_student(options: Options, splits: Splits, variant: str, seed: int) -> dict[str, Any]:
    """Train and measure one student."""
    method, changes = VARIANTS[variant]
    own = options.seeds.index(seed)
    others = range(MEMBERS) if variant == "hinton_ensemble" else range(1)
    teachers = [_teacher(options, splits, options.seeds[(own + k) % len(options.seeds)]) for k in others]
    student = make_model("cnn", STUDENT, splits.shape, splits.classes, seed)
    config = {**COMMON, **changes, "epochs": options.epochs, "seed": seed}
    teacher = teachers if len(teachers) > 1 else teachers[0]
    distiller = Distiller(student, teacher, method=method, config=config, device="cpu")
    distiller.fit(splits.train, splits.validation, progress_bar=True)
    result = distiller.evaluate(splits.test)
    say(f"{variant} seed {seed}: accuracy {result['accuracy']:.4f}, agreement {result['agreement']:.4f}")
    passes = [phase.trains for phase in distiller.plan]
    return {
        "variant": variant,
        "seed": seed,
        "student_passes": passes.count("student"),
        "helper_passes": len(passes) - passes.count("student"),
        "parameters": parameters(student),
        **{name: round(result[name], 6) for name in METRICS},
        "seconds": round(distiller.elapsed, 1),
    }


def _teacher(options: Options, splits: Splits, seed: int) -> nn.Module:
    """The seed's teacher, trained once and kept."""
    teacher = make_model("cnn", TEACHER, splits.shape, splits.classes, 1000 + seed)
    folder = options.teachers / f"{options.data}_{options.examples}_{options.teacher_epochs}_{seed}"
    if not (folder / "checkpoint.safetensors").exists():
        config = {**COMMON, "learning_rate": 1e-3, "epochs": options.teacher_epochs, "seed": 1000 + seed}
        Distiller(teacher, None, method="cross_entropy", config=config, device="cpu", run_dir=folder).fit(
            splits.train, splits.validation, progress_bar=True
        )
        return teacher
    distiller = Distiller.load(folder, teacher, device="cpu")
    distiller.fit(splits.train, splits.validation)
    return teacher


def _done(rows: Path) -> set[tuple[str, int]]:
    """(variant, seed) of the rows that are there."""
    if not rows.exists():
        return set()
    table = pd.read_csv(rows)
    return set(zip(table["variant"], table["seed"], strict=True))


def _append(rows: Path, row: dict[str, Any]) -> None:
    """Add one row, the whole file at once, so that a stop leaves no half of one."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(row), lineterminator="\n")
    if not rows.exists():
        writer.writeheader()
    writer.writerow(row)
    write_text(rows, (rows.read_text(encoding="utf-8") if rows.exists() else "") + text.getvalue())


def write_table(rows: Path, page: Path) -> None:
    """The table of all rows, printed and put between the page's markers."""
    table = tabulated(pd.read_csv(rows))
    say(table)
    publish(table, page, "fashion-mnist table")


def tabulated(rows: pd.DataFrame) -> str:
    """Means over seeds with 95 % t-intervals, as Markdown; differences are paired by seed."""
    lines = ["| method | n | accuracy % | minus cross-entropy | agreement % | KL, nats | ECE % | helper passes | s |"]
    lines.append("|---|" + "---:|" * 8)
    accuracy = rows.pivot(index="seed", columns="variant", values="accuracy")
    for variant in [name for name in VARIANTS if name in accuracy]:
        own = rows[rows["variant"] == variant]
        gain = accuracy[variant] - accuracy.get("cross_entropy", np.nan)
        cells = [
            interval(100 * own["accuracy"]),
            "" if variant == "cross_entropy" else interval(100 * gain),
            interval(100 * own["agreement"]),
            interval(own["kl"], 3),
            interval(100 * own["ece"]),
            str(int(own["helper_passes"].iloc[0])),
            f"{own['seconds'].mean():.0f}",
        ]
        lines.append(f"| `{variant}` | {len(own)} | " + " | ".join(cells) + " |")
    teachers = rows[rows["variant"] != "hinton_ensemble"].groupby("seed")["teacher_accuracy"].first()
    lines += ["", f"Teachers, one per seed: {interval(100 * teachers)} % accurate."]
    if {"disk", "hinton_warm"} <= set(accuracy):
        difference = interval(100 * (accuracy["disk"] - accuracy["hinton_warm"]))
        lines.append(f"DiSK minus Hinton from the same warm start, paired by seed: {difference} points of accuracy.")
    return "\n".join(lines) + "\n"


def draw(rows: pd.DataFrame, path: Path) -> Path:
    """Every seed, and the mean with its interval, of accuracy, agreement and KL by method, as a PNG."""
    names = [name for name in VARIANTS if name in set(rows["variant"])]
    figure = Figure(figsize=(8.4, 0.7 + 0.32 * len(names)), dpi=160, facecolor="white", layout="constrained")
    panels = (("accuracy", "accuracy, %", 100), ("agreement", "agreement, %", 100), ("kl", "KL, nats", 1))
    for axes, (column, label, unit) in zip(figure.subplots(1, 3, sharey=True), panels, strict=True):
        for place, name in enumerate(names):
            values = unit * rows.loc[rows["variant"] == name, column]
            axes.plot(values, [place] * len(values), ".", color=COLOURS[0], alpha=0.3, markersize=5)
            mean, half = mean_and_half(values)
            axes.errorbar(mean, place, xerr=half, fmt="o", color=COLOURS[0], markersize=4, capsize=3)
        axes.set_xlabel(label, color=INK)
        axes.grid(axis="x", color="#e6e6e6", linewidth=0.8)
        axes.spines[["top", "right", "left"]].set_visible(False)
        axes.tick_params(colors=INK, length=0, labelsize=9)
        axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.5, -0.5)  # the first method on top; the panels share it
    return save_figure(figure, path, metadata={"Software": None})


if __name__ == "__main__":
    guarded(lambda: main(tyro.cli(Options)))
