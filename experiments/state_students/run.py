"""Small students of the zoo's agents from states alone: plain, by features, censored, with a memory; and k-NN policies.

Appends the rows of a cell (a task, a method and a width, all seeds) to results/state_students/rows.csv when it is
finished, and skips what is there: start it again to go on. The agents are not part of this project: say where they are
with --teachers or the variable POLICYKD_TEACHERS.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

import tyro

from experiments.measurements import Measurements, check_names
from experiments.state_students.lab import Lab
from experiments.state_students.spec import CELLS, TEACHERS, Protocol
from policykd.cli import guarded
from policykd.cli.output import say
from policykd.teachers.teacher import Teacher

KEYS = ("task", "method", "width", "weight", "seed")
VALUES = (
    *("return", "teacher_return", "random_return", "error", "numbers", "states", "explained"),
    *("gradient_steps", "episodes", "cpu_seconds"),
)


@dataclass(frozen=True)
class Options:
    """Measure small students that learn from states alone."""

    teachers: Path = Path(os.environ.get("POLICYKD_TEACHERS", "teachers"))
    """Folder of the zoo's agents."""
    out: Path = Path("results/state_students")
    """Where the rows go."""
    tasks: tuple[str, ...] = tuple(TEACHERS)
    """Which tasks; those whose agent is not there are named and left out."""
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    """Each with states, first parameters and batches of its own."""
    protocol: Protocol = field(default_factory=Protocol)
    """How long and how much."""


def run(options: Options) -> None:
    check_names("tasks", options.tasks, TEACHERS)
    rows = Measurements(options.out / "rows.csv", KEYS, VALUES)
    for task in options.tasks:
        source = options.teachers / TEACHERS[task]
        if source.is_dir():
            measure(task, Teacher.load(source, task), rows, options)
        else:
            say(f"{task}: left out, there is no {source}")


def measure(task: str, teacher: Teacher, rows: Measurements, options: Options) -> None:
    """Add the cells of a task that are not there yet, or lack a seed."""
    missing = {cell: rows.missing(options.seeds, task=task, method=cell[0], width=cell[1]) for cell in CELLS}
    for seeds in dict.fromkeys(filter(None, missing.values())):
        lab = Lab(task, teacher, seeds, options.protocol)
        for method, width in [cell for cell in CELLS if missing[cell] == seeds]:
            rows.add(*lab.rows(task, method, width))


if __name__ == "__main__":
    guarded(lambda: run(tyro.cli(Options, description=__doc__)))
