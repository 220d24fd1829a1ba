"""What a replay in half precision or on disk costs and saves, beside float32 in memory, in turn in one process.

    python -m experiments.speed.replay --out results/speed/replay.csv

Microseconds of the thread's CPU time and of the clock to draw a batch for every learner and to add a step of each, and
the process's own memory (``RssAnon``) per learner once all is filled. HalfCheetah's sizes, and Pendulum's for the
largest replay. The file on disk is cached as far as memory goes; here that is all of it.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro

from experiments.speed.report import write_rows
from policykd.cli import guarded
from policykd.memory.replay import SharedReplay
from policykd.memory.storage import packed

FILLED_AT_ONCE = 10_000


@dataclass(frozen=True)
class ReplayOptions:
    """What to measure."""

    capacities: tuple[int, ...] = (100_000, 1_000_000)
    """Transitions per learner, of 17 numbers observed and 6 of actions."""
    narrow: tuple[int, ...] = (10_000_000,)
    """Transitions per learner, of 3 and 1."""
    learners: int = 2
    """Learners K."""
    batch_size: int = 64
    """Transitions per learner and draw."""
    rounds: int = 60
    """Bursts of ten calls for each kind."""
    folder: Path = Path()
    """On whose disk the file is."""
    out: Path | None = None
    """File for the raw rows."""


def own_memory() -> int:
    """Bytes of this process that no file holds (Linux)."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return 1024 * int(next(line for line in lines if line.startswith("RssAnon")).split()[1])


def fill(replay: SharedReplay) -> None:
    """Write every row, the same numbers again and again."""
    rows = torch.randn(FILLED_AT_ONCE, sum(replay.sections), generator=torch.Generator().manual_seed(0))
    rows = packed(rows) if replay.storage.dtype == torch.float16 else rows
    for start in range(0, replay.capacity, FILLED_AT_ONCE):
        part = replay.storage[:, start : start + FILLED_AT_ONCE]
        part[:] = rows[: part.shape[1]]
    replay.size, replay.position = replay.capacity, 123


def burst(call: Callable[[], Any]) -> dict[str, float]:
    """Microseconds of ten calls, each."""
    cpu, clock = time.thread_time_ns(), time.perf_counter_ns()
    for _ in range(10):
        call()
    spent = time.thread_time_ns() - cpu, time.perf_counter_ns() - clock
    return {"us": round(spent[0] / 1e4, 1), "clock_us": round(spent[1] / 1e4, 1)}


def measured(options: ReplayOptions, capacity: int, sizes: tuple[int, int]) -> list[dict[str, Any]]:
    """A row per burst."""
    learners, rows = options.learners, list[dict[str, Any]]()
    kinds: dict[str, dict[str, Any]] = {
        "float32": {},
        "float16": {"dtype": "float16"},
        "disk": {"folder": lambda: options.folder},
    }
    replays, own = {}, {}
    for kind, changes in kinds.items():
        before = own_memory()
        replays[kind] = SharedReplay(capacity, *sizes, learners, **changes)
        fill(replays[kind])
        own[kind] = (own_memory() - before) / learners / 1e6
    generators, rng = [np.random.default_rng(k) for k in range(learners)], np.random.default_rng(0)
    seen, acted = (rng.uniform(-1, 1, (learners, size)).astype(np.float32) for size in sizes)
    step = seen, acted, seen, *np.zeros((3, learners), np.float32)
    for number in range(-3, options.rounds):  # the first warm up
        for kind, replay in replays.items():
            about = {"capacity": capacity, "width": sum(sizes), "kind": kind, "own_mb": round(own[kind], 1)}
            calls = {
                "draw": lambda r=replay: r.sample(options.batch_size, generators),
                "add": lambda r=replay: r.add(*step),
            }
            rows += [{**about, "what": what, "round": number, **burst(call)} for what, call in calls.items()]
    return [row for row in rows if row["round"] >= 0]


def main(options: ReplayOptions) -> None:
    """Measure, print and keep."""
    torch.set_num_threads(1)
    cases = [(capacity, (17, 6)) for capacity in options.capacities]
    rows: list[dict[str, Any]] = []
    for capacity, sizes in [*cases, *((capacity, (3, 1)) for capacity in options.narrow)]:
        found = measured(options, capacity, sizes)
        rows += found
        for kind in dict.fromkeys(row["kind"] for row in found):
            mine = [row for row in found if row["kind"] == kind]
            draw, add = (
                statistics.median(row["us"] for row in mine if row["what"] == what) for what in ("draw", "add")
            )
            print(
                f"{capacity:10,} x {sizes}, {kind}: {mine[0]['own_mb']:7,.1f} MB per learner, "
                f"a batch {draw:.1f} us, a step {add:.1f} us",
                flush=True,
            )
    if options.out:
        write_rows(options.out, rows)


if __name__ == "__main__":
    guarded(lambda: main(tyro.cli(ReplayOptions, description=__doc__)))
