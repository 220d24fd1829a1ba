"""What the first use costs: the kernels' build, their operators, and ``torch.compile``; and from when on it repays.

    python -m experiments.speed.cold_start --out results/speed/cold_start.csv

Every part runs in a process of its own; "cold" with an empty cache, "kept" with what the cold one left. Seconds of the
processor with its children, and by the clock. An update is one of two learners with distillation, 64x64, batch 64.
"""

from __future__ import annotations

import csv
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import tyro

from policykd.cli import guarded

BUILD = "from policykd.native import build; build.build()"
OPERATORS = "from policykd.native import build; build.build_operators()"
UPDATES = """
import sys, time
from experiments.speed.cases import Case, Options
from experiments.speed.run import our_agent, steps_only
agent = our_agent(Options(backbone=sys.argv[1]), Case("-", 1, 64, 64, sys.argv[2] == "compiled", "-"))
steps_only(agent, 2 * 104)  # with the first updates of every kind: each is compiled by itself
spent = []
for _ in range(10):
    started = time.thread_time()
    steps_only(agent, 2 * 200)
    spent.append((time.thread_time() - started) / 200)
print(sorted(spent)[5])
"""


def run(program: str, cache: str, *arguments: str) -> tuple[float, float, float]:
    """Seconds of the processor and by the clock of a Python program, and the number it prints, if any."""
    environment = {**os.environ, "XDG_CACHE_HOME": cache, "TORCHINDUCTOR_COMPILE_THREADS": "1"}
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    command = [sys.executable, "-c", program, *arguments]
    printed = subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    busy = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return busy, time.perf_counter() - started, float((printed.split() or ["nan"])[-1])


def main(backbones: tuple[str, ...] = ("ddpg", "sac"), out: Path | None = None) -> None:
    """Measure, print and keep.

    Args:
        backbones: whose updates are compiled.
        out: file for the rows.
    """
    rows: list[tuple[str, str, float]] = []
    with tempfile.TemporaryDirectory() as cache:
        idle = run("import torch, policykd.native.build", cache)[0]
        for what, program in (("kernels", BUILD), ("operators", OPERATORS)):
            busy, clock, _ = run(program, cache)
            rows += [(what, "seconds of the processor", busy - idle), (what, "seconds by the clock", clock)]
            print(f"{what}: {busy - idle:.1f} s of the processor, {clock:.1f} s by the clock", flush=True)
        for backbone in backbones:
            eager_busy, _, eager = run(UPDATES, cache, backbone, "eager")
            for state in ("cold", "kept"):
                busy, clock, compiled = run(UPDATES, cache, backbone, "compiled")
                # What the eager program spent on the same updates is no cost of compiling.
                cost = busy - eager_busy + 2_000 * (eager - compiled)
                repays = cost / (eager - compiled)
                figures = {"cost, s": cost, "by the clock with 2,004 updates, s": clock, "repaid after updates": repays}
                figures |= {"step with an update, s": compiled, "the same, not compiled, s": eager}
                rows += [(f"{backbone}, {state}", name, value) for name, value in figures.items()]
                print(
                    f"{backbone}, {state}: {cost:.0f} s of the processor, repaid after {repays:,.0f} updates",
                    flush=True,
                )
    if out is not None:
        with out.open("w", newline="") as file:
            csv.writer(file).writerows([("what", "figure", "value"), *((w, f, f"{v:.6g}") for w, f, v in rows)])


if __name__ == "__main__":
    guarded(lambda: tyro.cli(main, description=__doc__))
