"""What a whole machine does: SB3 agents in as many processes as cores, and our learners in threads or in processes.

    python -m experiments.speed.machine --out results/speed/machine.csv

Sides work in turn, for some seconds each, all of a side's processes at once, and each on one thread but for "threads".
Ours includes distillation. Every row is a side and a round: environment steps per second of all its learners together.
"""

from __future__ import annotations

import multiprocessing
import os
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Literal

import tyro

from experiments.speed.cases import WARM_UP, Case, Options
from experiments.speed.report import write_rows
from experiments.speed.run import our_agent, rival_stepper, steps_only
from policykd import native
from policykd.cli import guarded
from policykd.core.compute import one_thread


@dataclass(frozen=True)
class MachineOptions:
    """What to measure."""

    backbone: Literal["ddpg", "td3", "sac"] = "sac"
    """On both sides."""
    env: str = "HalfCheetah-v5"
    """The task."""
    learners: int = 20
    """Of ours, in groups of two, on the whole machine."""
    widths: tuple[int, ...] = (64, 256)
    """Widths of the two hidden layers; the batch is 64 at 64 and 256 at 256."""
    rounds: int = 7
    """How often each side works."""
    seconds: float = 5.0
    """How long."""
    out: Path | None = None
    """File for the raw rows."""


@dataclass(frozen=True)
class Side:
    """Processes that work at once."""

    name: str
    processes: int
    learners: int
    """Of each process; 0 is one SB3 agent."""
    threads: int = 1


def stepper(side: Side, options: MachineOptions, width: int) -> Callable[[int], int]:
    """A function that makes about n more steps of each learner and returns how many of all."""
    common = Options(env=options.env, backbone=options.backbone)
    if not side.learners:
        step = rival_stepper("SB3", common, width, width)

        def one_agent(n: int) -> int:
            with one_thread():
                step(n)
            return n

        return one_agent
    agent = our_agent(common, Case(side.name, side.learners // 2, width, width, True, "-"))
    agent.threads = side.threads

    def all_learners(n: int) -> int:
        steps_only(agent, n * side.learners)
        return n * side.learners

    return all_learners


def work(pipe: Connection, side: Side, options: MachineOptions, width: int) -> None:
    """In a process of its own: warm up, then answer every number of seconds with steps per second."""
    step = stepper(side, options, width)
    step(WARM_UP[options.backbone])
    pipe.send(0.0)
    while seconds := pipe.recv():
        started, steps = time.perf_counter(), 0
        while (spent := time.perf_counter() - started) < seconds:
            steps += step(20)
        pipe.send(steps / spent)


def measure(options: MachineOptions, width: int) -> list[dict[str, object]]:
    """A row per side and round."""
    cores, context = native.cores(), multiprocessing.get_context("spawn")
    groups = options.learners // 2
    sides = (
        Side("SB3, a process per core", cores, 0),
        Side("ours, threads", 1, 2 * groups, cores),
        Side("ours, a process per core", cores, 2 * max(1, groups // cores)),
        Side("ours, one thread", 1, 2 * groups),
    )
    pipes: dict[Side, list[Connection]] = {side: [] for side in sides}
    processes = []
    for side in sides:
        for _ in range(side.processes):
            here, there = context.Pipe()
            process = context.Process(target=work, args=(there, side, options, width), daemon=True)
            process.start()
            processes.append(process)
            pipes[side].append(here)
            here.recv()  # one after the other: all compile the same
    rows: list[dict[str, object]] = []
    for number in range(options.rounds):
        for side in sides:
            for pipe in pipes[side]:
                pipe.send(options.seconds)
            speed = sum(pipe.recv() for pipe in pipes[side])
            shared = {"backbone": options.backbone, "width": width, "cores": cores, "round": number}
            learners = side.processes * max(1, side.learners)
            rows.append({**shared, "side": side.name, "learners": learners, "steps_per_second": speed})
        print(f"  round {number + 1} of {options.rounds} done (load {os.getloadavg()[0]:.1f})", flush=True)
    for pipe in (pipe for connections in pipes.values() for pipe in connections):
        pipe.send(0.0)
    for process in processes:
        process.join()
    return rows


def main(options: MachineOptions) -> None:
    """Measure, print and keep."""
    rows: list[dict[str, object]] = []
    for width in options.widths:
        print(f"networks ({width}, {width}), batch {width}, {native.cores()} cores", flush=True)
        rows += (measured := measure(options, width))
        speeds: dict[str, list[float]] = {}
        for row in measured:
            speeds.setdefault(str(row["side"]), []).append(float(str(row["steps_per_second"])))
        base = next(iter(speeds.values()))
        for name, values in speeds.items():
            ratios = sorted(ours / theirs for ours, theirs in zip(values, base, strict=True))
            middle = statistics.median(ratios)
            print(
                f"{name}: {statistics.median(values):,.0f} steps/s, {middle:.1f}x ({ratios[0]:.1f} to {ratios[-1]:.1f})"
            )
    if options.out:
        write_rows(options.out, rows)


if __name__ == "__main__":
    guarded(lambda: main(tyro.cli(MachineOptions, description=__doc__)))
