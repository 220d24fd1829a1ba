"""What many learners cost on a GPU and on the processor of the same machine, by the clock.

    python -m experiments.speed.gpu --out results/speed/gpu.csv        # needs a GPU that torch sees

On every side the same agent, SAC with distillation, trained in bursts: microseconds of a whole environment step
(physics in threads of the processor, acting, replay, update) and of its update alone, each over the number of learners.
Medians of a few bursts; a burst ends when the GPU has done its work. On "cpu" the kernels use all cores.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
import tyro

from experiments.speed.report import write_rows
from experiments.speed.run import steps_only
from policykd import DualStudent, native
from policykd.cli import guarded

Side = Literal["cpu", "cpu compiled", "cuda", "cuda compiled"]


@dataclass(frozen=True)
class GPUOptions:
    """What to measure."""

    learners: tuple[int, ...] = (2, 20, 200)
    """Numbers of learners K, in groups of two."""
    widths: tuple[int, ...] = (64, 256)
    """Widths of the two hidden layers; the batch of each learner is as large."""
    sides: tuple[Side, ...] = ("cpu", "cpu compiled", "cuda", "cuda compiled")
    """Where the learners live, and whether their update is compiled."""
    backbone: str = "sac"
    """ddpg, td3 or sac."""
    env: str = "HalfCheetah-v5"
    """The task."""
    bursts: int = 5
    """Measurements of each case."""
    seconds: float = 0.5
    """About how long one takes; at least two steps."""
    out: Path | None = None
    """File for the raw rows."""


def make(options: GPUOptions, side: Side, learners: int, width: int) -> DualStudent:
    """An agent whose replay holds what its first update needs."""
    config = {
        "net_arch": (width, width),
        "batch_size": width,
        "distill_batch_size": width,
        "buffer_size": 10_000,
        "learning_starts": width,
        "log_freq": 10**9,
        "eval_freq": 0,
        "checkpoint_freq": 0,
    }
    device, *compiled = side.split()
    return DualStudent(
        options.env,
        backbone=options.backbone,
        seeds=range(learners // 2),
        config=config,
        compile=bool(compiled),
        device=device,
    )


def spent(work: Callable[[int], object], count: int, device: torch.device) -> float:
    """Seconds that the work takes ``count`` times over, the GPU's part included."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    started = time.perf_counter()
    work(count)
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - started


def measure(options: GPUOptions, side: Side, learners: int, width: int) -> list[dict[str, object]]:
    """A row per burst of whole steps and per burst of updates."""
    begun = time.perf_counter()
    agent = make(options, side, learners, width)
    steps_only(agent, (width + 10) * learners)
    warm = time.perf_counter() - begun
    device = agent.learner.actor.device

    def updates(count: int) -> None:
        with agent.computing():
            for _ in range(count):
                agent.recipe.improve(0.0, False)

    rows: list[dict[str, object]] = []
    name = torch.cuda.get_device_name() if device.type == "cuda" else f"{native.cores()} cores"
    common = {"side": side, "backbone": options.backbone, "learners": learners, "width": width, "on": name}
    works: dict[str, Callable[[int], object]] = {"step": lambda n: steps_only(agent, n * learners), "update": updates}
    for part, work in works.items():
        spent(work, 3, device)
        count = max(2, round(3 * options.seconds / spent(work, 3, device)))
        for burst in range(options.bursts):
            microseconds = spent(work, count, device) / count / learners * 1e6
            rows.append({**common, "part": part, "burst": burst, "microseconds": round(microseconds, 3)})
        middle = statistics.median(float(str(row["microseconds"])) for row in rows if row["part"] == part)
        print(f"{side:14} K={learners:4} {width:4} wide: {middle:10.1f} us per learner and {part}", flush=True)
    print(f"{'':14} ready after {warm:.0f} s", flush=True)
    return rows


def main(options: GPUOptions) -> None:
    """Measure, print and keep."""
    print(f"torch {torch.__version__}, {os.cpu_count()} processors")
    rows: list[dict[str, object]] = []
    for width in options.widths:
        for learners in options.learners:
            for side in options.sides:
                rows += measure(options, side, learners, width)
                if options.out:
                    write_rows(options.out, rows)


if __name__ == "__main__":
    guarded(lambda: main(tyro.cli(GPUOptions, description=__doc__)))
