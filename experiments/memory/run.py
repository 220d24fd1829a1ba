"""Does memory hold what it says? The replay's bytes against the process's, and growth once the replay is full.

    python -m experiments.memory.run            # some minutes on one core
    python -m experiments.memory.run --help

Reads the resident size of this process from /proc (Linux), writes what it measured to ``results/memory/`` and exits
with 1 where a bound is broken.
"""

from __future__ import annotations

import csv
import io
import json
import os
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tyro
from stable_baselines3.common.callbacks import BaseCallback

from policykd import DualStudent
from policykd.cli import guarded
from policykd.core.files import versions, write_text
from policykd.memory import SharedReplay

STATM = Path("/proc/self/statm")
TASK = "PolicyKD/PointReach-v0"
SETTINGS = {
    "net_arch": (8, 8),
    "batch_size": 16,
    "distill_batch_size": 16,
    "buffer_size": 2_000,
    "learning_starts": 100,
    "train_freq": 4,
    "n_eval_episodes": 2,
}


@dataclass(frozen=True)
class Options:
    """Measure the memory that the replay takes, and its growth in a long run."""

    steps: int = 200_000
    """Environment steps to train after the replay is full and everything has been used once."""
    every: int = 10_000
    """Measure, evaluate, log and save a checkpoint every so many steps."""
    growth_megabytes: float = 2.0
    """Largest growth allowed over those steps. One kept transition per step would be 10 MB."""
    replay_megabytes: int = 400
    """Size of the replay whose bytes are compared with those of the process."""
    replay_ratio: float = 0.05
    """Largest deviation allowed between the two."""
    out: Path = Path("results/memory")
    """Folder for the raw numbers."""


class Sampler(BaseCallback):
    """Notes the process's size every so many steps."""

    def __init__(self, first: int, every: int) -> None:
        super().__init__()
        self.first, self.every = first, every
        self.rows: list[tuple[int, int]] = []

    def _on_step(self) -> bool:
        if self.num_timesteps >= self.first and self.num_timesteps % self.every == 0:
            self.rows.append((self.num_timesteps, resident_bytes()))
        return True


def resident_bytes() -> int:
    """Memory of this process that is in use, from the kernel."""
    return int(STATM.read_text(encoding="utf-8").split()[1]) * os.sysconf("SC_PAGE_SIZE")


def measure_replay(megabytes: int) -> tuple[int, int]:
    """Fill a replay of about this size; returns the bytes that it states and those that the process gained."""
    learners, observation, action = 8, 500, 4
    row = 4 * (2 * observation + action + 3)
    capacity = megabytes * 10**6 // (row * learners)
    observations, actions = np.ones((learners, observation)), np.ones((learners, action))
    numbers = np.ones(learners)
    SharedReplay(2, observation, action, learners).add(
        observations, actions, observations, numbers, numbers, numbers
    )  # what the first use of torch takes is not the replay's
    before = resident_bytes()
    replay = SharedReplay(capacity, observation, action, learners)
    for _ in range(capacity):
        replay.add(observations, actions, observations, numbers, numbers, numbers)
    assert replay.size == capacity
    return replay.nbytes, resident_bytes() - before


def measure_growth(steps: int, every: int, folder: Path) -> list[tuple[int, int]]:
    """Train two DPD peers with logs, evaluations and checkpoints; returns (step, bytes) from a full replay on."""
    changes = {"eval_freq": every, "log_freq": every, "checkpoint_freq": every}
    agent = DualStudent(TASK, config={**SETTINGS, **changes}, compile=False, run_dir=folder / "run")
    full = agent.peers * agent.replay_buffer.capacity
    first = (full // every + 2) * every  # the replay is full, and logs, evaluations and checkpoints were made before
    sampler = Sampler(first, every)
    agent.learn(first + steps, callback=sampler, progress_bar=True)
    return sampler.rows


def main(options: Options) -> int:
    """Measure both; returns the exit status."""
    if not STATM.exists():
        print(f"check_memory: this system has no {STATM}; nothing was measured")
        return 0
    stated, gained = measure_replay(options.replay_megabytes)
    deviation = gained / stated - 1
    print(
        f"replay: {stated / 1e6:,.1f} MB stated, {gained / 1e6:,.1f} MB gained ({deviation:+.2%}; "
        f"bound {options.replay_ratio:.0%})",
        flush=True,
    )
    with tempfile.TemporaryDirectory() as folder:
        rows = measure_growth(options.steps, options.every, Path(folder))
    growth = (rows[-1][1] - rows[0][1]) / 1e6
    largest = (max(size for _, size in rows) - rows[0][1]) / 1e6
    print(
        f"growth from step {rows[0][0]:,} to {rows[-1][0]:,}: {growth:+.2f} MB, at most {largest:+.2f} MB "
        f"(bound {options.growth_megabytes} MB); process {rows[-1][1] / 1e6:,.0f} MB"
    )
    write_text(options.out / "rss.csv", table(("step", "rss_bytes"), rows))
    write_text(options.out / "replay.csv", table(("stated_bytes", "gained_bytes"), [(stated, gained)]))
    write_text(options.out / "versions.json", json.dumps(versions(), indent=2) + "\n")
    return int(abs(deviation) > options.replay_ratio or largest > options.growth_megabytes)


def table(header: tuple[str, ...], rows: list[tuple[int, int]]) -> str:
    """Rows as CSV."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([header, *rows])
    return text.getvalue()


if __name__ == "__main__":
    guarded(lambda: sys.exit(main(tyro.cli(Options))))
