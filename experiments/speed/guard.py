"""Fails where this build is more than 5 % slower, beside SB3, than the committed ratio.

    python -m experiments.speed.guard            # exit status 0: no slower; 1: slower; 2: the machine is too noisy
    python -m experiments.speed.guard --update   # measure anew and keep as the committed ratios

Two learners with distillation and one SB3 learner train in turn, in one process, in short bursts, by the CPU time of
their thread: whoever else uses the machine disturbs both sides alike. Bursts go on until the 95 % interval of the
median ratio lies on one side of the limit. A ratio is that of a kind of machine and of the versions of torch and SB3:
elsewhere, keep ratios of your own with ``--update --committed FILE``.
"""

from __future__ import annotations

import csv
import json
import math
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro

from experiments.speed.cases import Case, Options
from experiments.speed.run import our_agent, rival_stepper, steps_only
from policykd.cli import guarded
from policykd.core.compute import one_thread
from policykd.core.files import versions, write_text

Verdict = Literal["fast enough", "slower", "undecided"]
STATUS: dict[Verdict, int] = {"fast enough": 0, "slower": 1, "undecided": 2}
LIMIT = 0.95
"""Of the committed ratio; below it a build is slower."""


@dataclass(frozen=True)
class GuardOptions:
    """What to measure."""

    backbones: tuple[str, ...] = ("ddpg", "td3", "sac")
    """Backbones on both sides."""
    compile: tuple[bool, ...] = (False, True)
    """Whether our update is compiled: both ways."""
    rounds: int = 40
    """Bursts of each side at least, and all of them with --update."""
    most: int = 400
    """Bursts of each side at most."""
    update: bool = False
    """Keep what is measured as the committed ratios."""
    committed: Path = Path("results/speed/guard.csv")
    """The committed bursts."""


def bursts(backbone: str, compile: bool) -> Iterator[float]:
    """Ratios of our speed, both learners counted, to SB3's: endless, one per burst of each side."""
    options = Options(backbone=backbone)
    agent = our_agent(options, Case("guard", 1, 64, 64, compile, "-"))
    rival = rival_stepper("SB3", options, 64, 64)
    with one_thread():
        steps_only(agent, 2 * 200)
        rival(200)
        while True:
            yield _spent(rival, 50) / 50 / (_spent(lambda steps: steps_only(agent, steps), 400) / 400)


def _spent(step: Callable[[int], object], steps: int) -> float:
    started = time.thread_time()
    step(steps)
    return time.thread_time() - started


def interval(ratios: list[float]) -> tuple[float, float]:
    """The 95 % interval of the median, by order statistics: no assumption about the noise."""
    ordered, half = sorted(ratios), 0.98 * math.sqrt(len(ratios))
    middle = (len(ratios) - 1) / 2
    return ordered[max(0, math.floor(middle - half))], ordered[min(len(ratios) - 1, math.ceil(middle + half))]


def judge(ratios: list[float], committed: float) -> Verdict:
    """On which side of the limit the interval lies."""
    low, high = interval(ratios)
    if low >= LIMIT * committed:
        return "fast enough"
    return "slower" if high < LIMIT * committed else "undecided"


def measure(case: Iterator[float], committed: float, least: int, most: int) -> list[float]:
    """Bursts until the verdict is clear, or there are ``most``."""
    ratios = [next(case) for _ in range(least)]
    while judge(ratios, committed) == "undecided" and len(ratios) < most:
        ratios += [next(case) for _ in range(10)]
    return ratios


def read(path: Path) -> dict[tuple[str, bool], float]:
    """Committed median ratios by backbone and whether compiled."""
    found: dict[tuple[str, bool], list[float]] = {}
    with path.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            found.setdefault((row["backbone"], row["compiled"] == "True"), []).append(float(row["ratio"]))
    return {key: statistics.median(ratios) for key, ratios in found.items()}


def main(options: GuardOptions) -> int:
    """Measure every case, print, and return the exit status."""
    committed = {} if options.update else read(options.committed)
    status, rows = 0, []
    for backbone in options.backbones:
        for compiled in options.compile:
            case, before = bursts(backbone, compiled), committed.get((backbone, compiled), 0.0)
            ratios = measure(case, before, options.rounds, options.rounds if options.update else options.most)
            rows += [(backbone, compiled, number, f"{ratio:.4f}") for number, ratio in enumerate(ratios)]
            low, high = interval(ratios)
            line = f"{backbone}{', compiled' if compiled else ''}: {statistics.median(ratios):.2f}x SB3"
            line += f" ({low:.2f} to {high:.2f}, {len(ratios)} bursts)"
            if not options.update:
                verdict = judge(ratios, before)
                status = max(status, STATUS[verdict], key=(0, 2, 1).index)  # slower outweighs undecided
                line += f"; committed {before:.2f}x: {verdict}"
            print(line, flush=True)
    if options.update:
        with options.committed.open("w", newline="") as file:
            csv.writer(file).writerows([("backbone", "compiled", "burst", "ratio"), *rows])
        write_text(options.committed.with_suffix(".versions.json"), json.dumps(versions(), indent=2) + "\n")
    return status


if __name__ == "__main__":
    guarded(lambda: sys.exit(main(tyro.cli(GuardOptions, description=__doc__))))
