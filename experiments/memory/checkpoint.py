"""How much memory does saving take? The peak of this process while it saves and loads an agent with a large replay.

    python -m experiments.memory.checkpoint
    python -m experiments.memory.checkpoint --help

Compares the checkpoint's own writer with the library's, which builds the whole file in memory. Reads the peak from
/proc (Linux) and writes ``results/memory/checkpoint.csv``; exits with 1 where saving takes over 5 % of the replay.
"""

from __future__ import annotations

import csv
import io
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import tyro
from safetensors.torch import save_file

from policykd import DualStudent
from policykd.cli import guarded
from policykd.core import checkpoint
from policykd.core.files import write_text

STATUS, RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")
TASK = "PolicyKD/PointReach-v0"


@dataclass(frozen=True)
class Options:
    """Measure the memory that saving takes."""

    megabytes: int = 400
    """Size of the replay, of all learners together."""
    out: Path = Path("results/memory/checkpoint.csv")
    """Where the numbers go."""


def memory(what: str) -> int:
    """Bytes of this process from the kernel: ``VmRSS`` now, ``VmHWM`` at most since the last ``reset``."""
    line = next(line for line in STATUS.read_text(encoding="utf-8").splitlines() if line.startswith(what))
    return 1024 * int(line.split()[1])


def measure(job: Callable[[], Any]) -> tuple[int, float]:
    """Bytes that a job takes at most beyond those before it, and its seconds."""
    RESET.write_text("5", encoding="utf-8")  # the peak is what it is now
    before, started = memory("VmRSS"), time.perf_counter()
    job()
    return memory("VmHWM") - before, time.perf_counter() - started


def by_the_library(agent: DualStudent, path: Path) -> None:
    """As checkpoints were written before: every tensor copied, and all of them once more by the library."""
    tensors: dict[str, torch.Tensor] = {}

    def take(value: Any, name: str) -> None:
        if isinstance(value, dict):
            for key, item in value.items():
                take(item, f"{name}/{key}")
        elif isinstance(value, torch.Tensor):
            tensors[name] = value.detach().cpu().contiguous().clone()

    take(agent._state(include_replay=True), "")
    save_file(tensors, path)


def main(options: Options) -> int:
    """Measure; returns the exit status."""
    if not RESET.exists():
        print(f"memory.checkpoint: this system has no {RESET}; nothing was measured")
        return 0
    row = 4 * (2 * 4 + 2 + 3)
    agent = DualStudent(TASK, config={"buffer_size": options.megabytes * 10**6 // (2 * row), "net_arch": (8, 8)})
    agent.get_env()
    agent.replay_buffer.storage.normal_()
    agent.replay_buffer.size = agent.replay_buffer.capacity
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "agent.safetensors")
        agent.save(path)  # what the first use of everything takes is not the replay's
        jobs: dict[str, Callable[[], Any]] = {
            "save": lambda: agent.save(path, include_replay=True),
            "save by the library": lambda: by_the_library(agent, Path(folder, "library.safetensors")),
            "load": lambda: checkpoint.load(path),
        }
        for name, job in jobs.items():
            extra, seconds = measure(job)
            rows.append((name, agent.replay_buffer.nbytes, extra, round(seconds, 2)))
            print(f"{name}: {extra / 1e6:,.1f} MB beyond a replay of {rows[-1][1] / 1e6:,.1f} MB, {seconds:.2f} s")
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([("what", "replay_bytes", "extra_bytes", "seconds"), *rows])
    options.out.parent.mkdir(parents=True, exist_ok=True)
    write_text(options.out, text.getvalue())
    return int(rows[0][2] > 0.05 * rows[0][1])


if __name__ == "__main__":
    guarded(lambda: sys.exit(main(tyro.cli(Options))))
