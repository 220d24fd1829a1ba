"""Does the distiller cost what it must? Its time over bare forward and backward passes, and its memory over passes.

    python -m experiments.classification.overhead          # some minutes on one core
    python -m experiments.classification.overhead --help

Bare is a loop that a user would write: batches by index, student and teacher forward, Hinton's loss, backward and
optimiser step, nothing else. Both are timed in turns on random images of 28x28, without a cache and without
validation; the median ratio of the pairs counts, in CPU seconds, which other programs disturb least. Writes what it
measured to ``results/classification/`` and exits with 1 where a bound is broken.
"""

from __future__ import annotations

import csv
import io
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import tyro
from torch import Tensor, nn

from policykd import Distiller
from policykd.classification.models import make_model
from policykd.cli import guarded
from policykd.core.files import write_text
from policykd.distillation.supervised.hinton import hinton_loss

STATM = Path("/proc/self/statm")
SHAPE, CLASSES, BATCH = (1, 28, 28), 10, 128
TEACHER, STUDENT = (32, 64, 128, 280), (8, 16, 32, 64)


@dataclass(frozen=True)
class Options:
    """Measure the distiller's own time and memory."""

    examples: int = 6_400
    """Images per pass."""
    pairs: int = 7
    """Timed passes of each kind."""
    passes: int = 60
    """Passes over which memory is watched, after ten to settle."""
    ratio: float = 1.10
    """Largest allowed time, in units of the bare loop's."""
    growth_megabytes: float = 2.0
    """Largest allowed growth. Keeping the outputs of every step would be far more."""
    out: Path = Path("results/classification")
    """Folder for the raw numbers."""


def bare(student: nn.Module, teacher: nn.Module, inputs: Tensor, labels: Tensor) -> float:
    """CPU seconds of one pass of the loop that has only what it must."""
    optimizer = torch.optim.Adam(student.parameters(), 1e-3)
    student.train()
    teacher.eval()
    started = time.process_time()
    for rows in torch.randperm(len(inputs)).split(BATCH):
        batch = inputs[rows]
        with torch.no_grad():
            target = teacher(batch)
        loss, _ = hinton_loss(student(batch), target, labels[rows], 0.9, 4.0)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return time.process_time() - started


def distilled(student: nn.Module, teacher: nn.Module, inputs: Tensor, labels: Tensor) -> float:
    """CPU seconds of one pass of the distiller, from the call of ``fit`` to its return."""
    distiller = Distiller(student, teacher, config={"epochs": 1, "cache_megabytes": 0}, device="cpu")
    started = time.process_time()
    distiller.fit((inputs, labels))
    return time.process_time() - started


def measure_growth(options: Options, inputs: Tensor, labels: Tensor) -> list[tuple[int, int]]:
    """(pass, resident bytes) after every tenth pass, features and validation included."""
    rows: list[tuple[int, int]] = []
    student, teacher = (make_model("mlp", (16, 16), SHAPE, CLASSES, seed) for seed in (0, 1))
    config = {
        "epochs": options.passes + 10,
        "student_features": ("hidden.1",),
        "teacher_features": ("hidden.1",),
    }

    def watch(batch: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        done = distiller.passes
        if done >= 10 and done % 10 == 0 and (not rows or rows[-1][0] != done):
            rows.append((done, int(STATM.read_text(encoding="utf-8").split()[1]) * os.sysconf("SC_PAGE_SIZE")))
        return batch

    distiller = Distiller(student, teacher, method="vid", config=config, device="cpu", adaptor=watch)
    distiller.fit((inputs, labels), (inputs[:256], labels[:256]), progress_bar=True)
    return rows


def main(options: Options) -> int:
    """Measure both; returns the exit status."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    inputs, labels = torch.randn(options.examples, *SHAPE), torch.randint(CLASSES, (options.examples,))
    student, teacher = (make_model("cnn", widths, SHAPE, CLASSES, 0) for widths in (STUDENT, TEACHER))
    for measure in (bare, distilled):  # first uses of torch are not counted
        measure(student, teacher, inputs[: 2 * BATCH], labels[: 2 * BATCH])
    times = [
        (bare(student, teacher, inputs, labels), distilled(student, teacher, inputs, labels))
        for _ in range(options.pairs)
    ]
    ratio = float(np.median([ours / least for least, ours in times]))
    print(f"time: median {ratio:.3f} of the bare loop (bound {options.ratio})", flush=True)
    _write(options.out / "overhead.csv", ("bare_cpu_seconds", "distiller_cpu_seconds"), times)
    if not STATM.exists():
        print(f"memory: this system has no {STATM}; not measured")
        return int(ratio > options.ratio)
    rows = measure_growth(options, inputs, labels)
    growth = (max(size for _, size in rows) - rows[0][1]) / 1e6
    print(
        f"memory: at most {growth:+.2f} MB over {rows[-1][0] - rows[0][0]} passes (bound {options.growth_megabytes} MB)"
    )
    _write(options.out / "memory.csv", ("passes", "rss_bytes"), rows)
    return int(ratio > options.ratio or growth > options.growth_megabytes)


def _write(path: Path, header: tuple[str, str], rows: Sequence[tuple[float, float]]) -> None:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([header, *rows])
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, text.getvalue())


if __name__ == "__main__":
    guarded(lambda: sys.exit(main(tyro.cli(Options))))
