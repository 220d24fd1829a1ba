"""What bounds a step of one learner, beside what it takes: the physics, the matrix rate, the memory.

    python -m experiments.speed.limits

Measures the three limits of one thread (results/speed/limits.csv) and draws them into what ``scale`` measured
(results/speed/scale.png). A learner's update of SAC with distillation needs so many operations in matrix products
(``run.update_gflop``) at the peak rate of ``peak``; and, where caches do not hold them, every parameter with its
gradient, its target and Adam's two moments once from memory and once back.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import policykd_envs
import torch
import tyro

from experiments.speed.peak import peak
from experiments.speed.report import write_rows
from experiments.speed.run import update_gflop
from policykd import DualStudent
from policykd.cli import guarded
from policykd.learners import OffPolicyLearner

ENV = "HalfCheetah-v5"
COPIED = 2**26
"""Numbers of float32 that are copied to measure the memory: more than any cache holds."""


@dataclass(frozen=True)
class Options:
    """What to measure and draw."""

    rounds: int = 15
    """Measurements of each limit."""
    out: Path = Path("results/speed")
    """Folder of scale.csv; rows and picture go there."""
    measure: bool = True
    """Measure anew; else draw the rows that are there."""


def main(options: Options) -> None:
    rows = options.out / "limits.csv"
    if options.measure:
        write_rows(rows, measured(options.rounds))
    limits = pd.read_csv(rows).groupby("what").value.median()
    scale = pd.read_csv(options.out / "scale.csv")
    print(limits.to_string())
    picture(scale[scale.gradient_steps == 1], limits, options.out / "scale.png")


def measured(rounds: int) -> list[dict[str, object]]:
    """Rows of GFLOP/s of products, GB/s of copies (read and written), and microseconds of a step of the physics."""
    torch.set_num_threads(1)
    product, gflop = peak()
    source, target = torch.ones(COPIED), torch.empty(COPIED)
    env = policykd_envs.make(ENV)
    env.reset(seed=0)
    action = np.zeros(env.action_space.shape or (), np.float32)
    cases: dict[str, tuple[Callable[[], object], int, Callable[[float], float]]] = {
        "gflop_per_second": (product, 20, lambda seconds: gflop / seconds),
        "gb_per_second": (lambda: target.copy_(source), 2, lambda seconds: 8e-9 * COPIED / seconds),
        "physics_us": (lambda: env.step(action), 500, lambda seconds: 1e6 * seconds),
    }
    rows: list[dict[str, object]] = []
    for number in range(rounds):
        for what, (call, calls, value) in cases.items():
            started = time.thread_time()
            for _ in range(calls):
                call()
            spent = (time.thread_time() - started) / calls
            rows.append({"what": what, "round": number, "value": round(value(spent), 3)})
    return rows


def needs(width: int) -> tuple[float, float]:
    """Billions of operations and of bytes for an update of one learner of SAC with distillation, batch 64."""
    config = {"net_arch": (width, width), "batch_size": 64, "distill_batch_size": 64, "buffer_size": 1_000}
    agent = DualStudent(ENV, backbone="sac", seeds=(0,), config=config, compile=False, device="cpu")
    learner = agent.learner
    assert isinstance(learner, OffPolicyLearner)
    with_target, without = learner.critic.numel(), learner.actor.numel()
    return update_gflop(agent), 2 * 4 * (5 * with_target + 4 * without) / agent.n_learners / 1e9


def picture(scale: pd.DataFrame, limits: pd.Series, path: Path) -> None:
    """A panel per width: time per learner by the number of learners, and what it cannot fall below."""
    widths = sorted(scale.width.unique())
    figure, axes = plt.subplots(1, len(widths), figsize=(3 * len(widths), 3.4), squeeze=False)
    for panel, width in zip(axes[0], widths, strict=True):
        median = scale[scale.width == width].groupby("learners").microseconds.apply(statistics.median)
        panel.plot(median.index, median, "o-", color="C0", label="measured")
        gflop, gigabytes = needs(int(width))
        physics = limits["physics_us"]
        arithmetic = physics + 1e6 * gflop / limits["gflop_per_second"]
        memory = physics + 1e6 * gigabytes / limits["gb_per_second"]
        panel.axhline(physics, color="grey", label="physics")
        panel.axhline(arithmetic, color="C3", linestyle="--", label="and products at the peak rate")
        panel.axhline(memory, color="C2", linestyle=":", label="and parameters from memory")
        panel.set(xscale="log", yscale="log", title=f"{width}x{width}", xlabel="learners", ylim=(20, 40_000))
    axes[0][0].set_ylabel("us per step of one learner")
    axes[0][0].legend(fontsize=7)
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)


if __name__ == "__main__":
    guarded(lambda: main(tyro.cli(Options, description=__doc__)))
