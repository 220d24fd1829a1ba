"""What threads of the kernels gain: one agent trained in short bursts on each number of threads in turn, by the clock.

    python -m experiments.speed.threads --learners 20 --widths 64 256 --out results/speed/threads.csv

Bursts alternate, so that whoever else uses the machine disturbs all sides alike; ratios are taken burst by burst, their
median counts. On a busy machine they say little about a quiet one: the load is written beside every burst.
"""

from __future__ import annotations

import dataclasses
import os
import statistics
import time
from dataclasses import dataclass
from pathlib import Path

import tyro

from experiments.speed.cases import Case, Options
from experiments.speed.report import write_rows
from experiments.speed.run import our_agent, steps_only
from policykd import native
from policykd.cli import guarded


@dataclass(frozen=True)
class ThreadOptions:
    """What to measure."""

    learners: int = 20
    """Learners K, in groups of two."""
    widths: tuple[int, ...] = (64, 256)
    """Widths of the two hidden layers; the batch is 64 at 64 and 256 at 256."""
    threads: tuple[int, ...] = (1, 2)
    """Numbers of threads, the first being what the others are measured by."""
    backbone: str = "sac"
    """ddpg, td3 or sac."""
    env: str = "HalfCheetah-v5"
    """The task."""
    rounds: int = 30
    """Bursts on each number of threads."""
    seconds: float = 0.5
    """About how long a burst takes."""
    compile: bool = True
    """Whether the update is compiled."""
    out: Path | None = None
    """File for the raw rows."""


def bursts(options: ThreadOptions, width: int) -> list[dict[str, object]]:
    """A row per burst: microseconds per step of a learner."""
    case = Case("threads", options.learners // 2, width, width, options.compile, "-")
    agent = our_agent(Options(env=options.env, backbone=options.backbone), case)
    steps_only(agent, 120 * agent.n_learners)
    started = time.perf_counter()
    steps_only(agent, 5 * agent.n_learners)
    count = max(2, round(5 * options.seconds / (time.perf_counter() - started)))
    rows: list[dict[str, object]] = []
    for number in range(options.rounds):
        for threads in options.threads:
            agent.threads = threads
            started = time.perf_counter()
            steps_only(agent, count * agent.n_learners)
            spent = (time.perf_counter() - started) / count / agent.n_learners
            common = {"backbone": options.backbone, "width": width, "learners": agent.n_learners, "round": number}
            rows.append({**common, "threads": threads, "microseconds": spent * 1e6, "load": os.getloadavg()[0]})
    return rows


def gain(rows: list[dict[str, object]], width: int, threads: int, base: int) -> tuple[float, float, float]:
    """Speed over that on ``base`` threads: its median, and its lower and upper quartile."""
    spent = {(row["threads"], row["round"]): float(str(row["microseconds"])) for row in rows if row["width"] == width}
    ratios = [spent[base, number] / us for (count, number), us in spent.items() if count == threads]
    low, middle, high = statistics.quantiles(ratios, n=4)
    return middle, low, high


def main(options: ThreadOptions) -> None:
    """Measure, print and keep."""
    print(f"{native.cores()} cores, {dataclasses.asdict(options)}")
    rows: list[dict[str, object]] = []
    base, *others = options.threads
    for width in options.widths:
        rows += bursts(options, width)
        for threads in others:
            middle, low, high = gain(rows, width, threads, base)
            print(f"{width}x{width}: {threads} threads {middle:.2f}x of {base} (quartiles {low:.2f} to {high:.2f})")
    if options.out:
        write_rows(options.out, rows)


if __name__ == "__main__":
    guarded(lambda: main(tyro.cli(ThreadOptions, description=__doc__)))
