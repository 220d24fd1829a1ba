"""Python calls of one iteration (a step of the environments and its updates), ours beside SB3's, by ``sys.setprofile``.

    python -m experiments.speed.calls --out results/speed/calls.csv

"own" are calls into the library itself, ``policykd`` or ``stable_baselines3``; the others are of torch, numpy and
Gymnasium. Ours is two learners with distillation, not compiled; SB3's is one learner. A resumed generator counts as a
call, as Python reports it. Counts do not depend on the machine, but on the versions of Python and the libraries.
"""

from __future__ import annotations

import csv
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import tyro

from experiments.speed.cases import Case, Options
from experiments.speed.run import our_agent, rival_stepper, steps_only
from policykd.cli import guarded

Place = tuple[str, str]
"""File and function."""


def counted(step: Callable[[int], object], iterations: int) -> Counter[Place]:
    """Calls by their place while ``step(iterations)`` runs."""
    calls: Counter[Place] = Counter()

    def note(frame: FrameType, event: str, _: Any) -> None:
        if event == "call":
            calls[frame.f_code.co_filename, frame.f_code.co_name] += 1

    before = sys.getprofile()
    sys.setprofile(note)
    try:
        step(iterations)
    finally:
        sys.setprofile(before)
    return calls


def per_iteration(step: Callable[[int], object], iterations: int = 10) -> Counter[Place]:
    """Calls of every iteration: what twice as many of them make more, so that what happens once does not count."""
    once, twice = counted(step, iterations), counted(step, 2 * iterations)
    found = {place: round((count - once[place]) / iterations) for place, count in twice.items()}
    return Counter({place: count for place, count in found.items() if count > 0})


def own(calls: Counter[Place], package: str) -> Counter[Place]:
    """Those into a package's own files."""
    return Counter({place: count for place, count in calls.items() if f"/{package}/" in place[0]})


def both(backbone: str = "sac") -> dict[str, Counter[Place]]:
    """Calls of an iteration, by the package that makes it."""
    options = Options(backbone=backbone)
    agent = our_agent(options, Case("eager", 1, 64, 64, False, "-"))
    rival = rival_stepper("SB3", options, 64, 64)
    steps_only(agent, 2 * 110)
    rival(110)
    ours = per_iteration(lambda count: steps_only(agent, 2 * count))
    return {"policykd": ours, "stable_baselines3": per_iteration(rival)}


def main(backbone: str = "sac", out: Path | None = None, show: bool = False) -> None:
    """Count and print.

    Args:
        backbone: ddpg, td3 or sac.
        out: file for the rows: calls of every function in a library's own files.
        show: print every function's.
    """
    rows = []
    for package, calls in both(backbone).items():
        mine = own(calls, package)
        files = {file for file, _ in mine}
        print(f"{package}: {sum(mine.values())} own calls in {len(files)} files, {sum(calls.values())} calls in all")
        for (file, function), count in sorted(mine.items(), key=lambda item: (item[0][0], -item[1])):
            rows.append((backbone, package, file.rpartition(f"/{package}/")[2], function, count))
            if show:
                print(f"  {count:4}  {rows[-1][2]}  {function}")
        rows.append((backbone, package, "", "all, with those of other libraries", sum(calls.values())))
    if out is not None:
        with out.open("w", newline="") as opened:
            csv.writer(opened).writerows([("backbone", "package", "file", "function", "calls"), *rows])


if __name__ == "__main__":
    guarded(lambda: tyro.cli(main, description=__doc__))
