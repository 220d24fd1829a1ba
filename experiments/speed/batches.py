"""A batch drawn by one native call beside numpy and torch, in turn in one process, by CPU time of one thread.

python -m experiments.speed.batches --out results/speed/batches.csv
"""

from __future__ import annotations

import csv
import statistics
import time
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import tyro

from policykd.cli import guarded
from policykd.memory.replay import SharedReplay


def main(
    learners: Annotated[tuple[int, ...], tyro.conf.arg(help="numbers of learners K")] = (2, 20),
    batch_size: int = 64,
    rounds: int = 300,
    out: Path | None = None,
) -> None:
    """Measure and print microseconds per batch of all learners."""
    torch.set_num_threads(1)
    rows: list[tuple[int, str, int, float]] = []
    for count in learners:
        replay = SharedReplay(50_000, 17, 6, count, 2)
        replay.storage.normal_()
        replay.size, replay.position = 50_000, 123
        generators = [np.random.default_rng(k) for k in range(count)]
        for number in range(-3, rounds):
            for who, native in (("native", True), ("numpy and torch", False)):
                replay._native = native
                started = time.thread_time_ns()
                for _ in range(10):
                    replay.sample(batch_size, generators)
                if number >= 0:
                    rows.append((count, who, number, (time.thread_time_ns() - started) / 1e4))
        for who in ("native", "numpy and torch"):
            print(count, who, f"{statistics.median(us for k, w, _, us in rows if (k, w) == (count, who)):.1f} us")
    if out is not None:
        with out.open("w", newline="") as file:
            csv.writer(file).writerows([("learners", "who", "round", "microseconds"), *rows])


if __name__ == "__main__":
    guarded(lambda: tyro.cli(main))
