"""What a step of one learner costs, by the number of learners, the width of networks and gradient steps.

    python -m experiments.speed.scale --out results/speed/scale.csv

Microseconds of the thread's CPU time per environment step and learner: physics, acting, replay, RL and distillation,
batch 64, one thread, not compiled. Medians of a few bursts; the buffer is small.
"""

from __future__ import annotations

import csv
import statistics
import time
from dataclasses import dataclass
from pathlib import Path

import tyro

from experiments.speed.run import steps_only
from policykd import DualStudent
from policykd.cli import guarded


@dataclass(frozen=True)
class ScaleOptions:
    """What to measure."""

    learners: tuple[int, ...] = (2, 20, 200)
    """Numbers of learners K, in groups of two."""
    widths: tuple[int, ...] = (32, 64, 256, 512)
    """Widths of the two hidden layers."""
    gradient_steps: tuple[int, ...] = (1, 2, 4, 8)
    """Gradient steps per environment step, with the fewest learners and the narrowest networks; else 1."""
    backbone: str = "sac"
    """ddpg, td3 or sac."""
    env: str = "HalfCheetah-v5"
    """The task."""
    bursts: int = 5
    """Measurements of each case."""
    seconds: float = 1.0
    """About how long one takes; at least two steps."""
    out: Path | None = None
    """File for the raw rows."""


def burst_times(options: ScaleOptions, learners: int, width: int, gradient_steps: int) -> list[float]:
    """Microseconds per environment step and learner, a number per burst."""
    config = {
        "net_arch": (width, width),
        "batch_size": 64,
        "distill_batch_size": 64,
        "buffer_size": 1_000,
        "learning_starts": 64,
        "gradient_steps": gradient_steps,
        "log_freq": 10**9,
        "eval_freq": 0,
        "checkpoint_freq": 0,
    }
    groups = range(learners // 2)
    agent = DualStudent(
        options.env, backbone=options.backbone, seeds=groups, config=config, compile=False, device="cpu", threads=1
    )
    steps_only(agent, 65 * learners)

    def spent(steps: int) -> float:
        started = time.thread_time()
        steps_only(agent, steps * learners)
        return time.thread_time() - started

    steps = max(2, round(2 * options.seconds / spent(2)))
    return [spent(steps) / steps / learners * 1e6 for _ in range(options.bursts)]


def main(options: ScaleOptions) -> None:
    """Measure, print and keep."""
    cases = [(learners, width, 1) for width in options.widths for learners in options.learners]
    least = min(options.learners), min(options.widths)
    cases += [(*least, steps) for steps in options.gradient_steps if (*least, steps) not in cases]
    rows: list[tuple[object, ...]] = []
    for learners, width, gradient_steps in cases:
        found = burst_times(options, learners, width, gradient_steps)
        rows += [(options.backbone, learners, width, gradient_steps, n, round(us, 1)) for n, us in enumerate(found)]
        updates = f"{gradient_steps} gradient step{'s' if gradient_steps > 1 else ''}"
        print(f"K={learners:4} {width:4} wide, {updates}: {statistics.median(found):9.1f} us per learner", flush=True)
    if options.out:
        with options.out.open("w", newline="") as file:
            names = "backbone", "learners", "width", "gradient_steps", "burst", "microseconds"
            csv.writer(file).writerows([names, *rows])


if __name__ == "__main__":
    guarded(lambda: main(tyro.cli(ScaleOptions, description=__doc__)))
