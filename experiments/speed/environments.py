"""What threads gain in stepping MuJoCo's environments: in turn and in threads, one after the other, in one process.

    python -m experiments.speed.environments --out results/speed/environments.csv

Microseconds of the clock per step of one environment, of SB3's ``Monitor`` and the checks too; random actions.
"""

from __future__ import annotations

import os
import statistics
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tyro

from experiments.speed.report import write_rows
from policykd import native
from policykd.cli import guarded
from policykd.tasks.spaces import find_task
from policykd.tasks.stepping import Threaded
from policykd.tasks.vector import LearnerEnvs


@dataclass(frozen=True)
class EnvironmentOptions:
    """What to measure."""

    tasks: tuple[str, ...] = ("HalfCheetah-v5", "Ant-v5", "Humanoid-v5")
    """MuJoCo tasks."""
    counts: tuple[int, ...] = (2, 8, 20)
    """Environments that step together."""
    threads: int = 2
    """Threads, beside one."""
    steps: int = 60
    """Steps of all environments in a burst."""
    rounds: int = 10
    """Bursts of each way."""
    out: Path | None = None
    """File for the raw rows."""


def bursts(options: EnvironmentOptions, task: str, count: int) -> list[dict[str, object]]:
    """A row per burst."""
    envs = LearnerEnvs(find_task(task).make, count, None)
    envs.start(list(range(count)))
    assert envs.action_space.shape is not None
    shape = options.steps, count, envs.action_space.shape[0]
    actions = np.random.default_rng(0).uniform(-1, 1, shape).astype(np.float32)
    threaded, rows = Threaded(count, options.threads), []
    for number in range(options.rounds + 1):
        for threads in (1, options.threads):
            envs.threaded, threaded.pay = (threaded if threads > 1 else None), True
            started = time.perf_counter()
            for step in actions:
                envs.advance(step, scaled=True)
            spent = (time.perf_counter() - started) / options.steps / count * 1e6
            rows.append({"task": task, "environments": count, "round": number, "threads": threads, "us": spent})
    threaded.close()
    envs.close()
    return [{**row, "load": os.getloadavg()[0]} for row in rows if row["round"]]  # the first warms up


def main(options: EnvironmentOptions) -> None:
    """Measure, print and keep."""
    print(f"{native.cores()} cores")
    rows = []
    for task in options.tasks:
        for count in options.counts:
            found = bursts(options, task, count)
            rows += found
            alone, shared = (
                [float(str(row["us"])) for row in found if row["threads"] == threads]
                for threads in (1, options.threads)
            )
            gain = statistics.median(a / b for a, b in zip(alone, shared, strict=True))
            print(
                f"{task}, {count} environments: {statistics.median(alone):.0f} us, {gain:.2f}x in threads", flush=True
            )
    if options.out:
        write_rows(options.out, rows)


if __name__ == "__main__":
    guarded(lambda: main(tyro.cli(EnvironmentOptions, description=__doc__)))
