"""Students without velocities of teachers that see all: feed-forward, with a history, with a GRU.

Appends the rows of a cell (a task and a kind of student, all seeds without rows) to results/memory_students/rows.csv
when it is finished, and skips what is there: start it again to go on. The zoo's agents are not part of this project:
say where they are with --teachers or the variable POLICYKD_TEACHERS. The teacher of Walker2d is trained where it is
missing.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro

from experiments.measurements import Measurements, check_names
from experiments.memory_students.spec import PROTOCOLS, SEEDS, SETTINGS, STUDENTS, TEACHERS
from experiments.teacher_student.retention import teacher_of
from policykd import TeacherStudent
from policykd.benchmark.retention import retention
from policykd.cli import guarded
from policykd.cli.output import say

START = 1_000_000
"""Seed of the measurement's initial states."""
KEYS = ("task", "protocol", "student", "seed")
VALUES = (
    *("return", "teacher_return_here", "random_return", "retention", "return_min", "teacher_return_min"),
    *("falls", "teacher_falls", "steps", "episodes", "parameters", "cpu_seconds"),
)


@dataclass(frozen=True)
class Options:
    """Measure what students without velocities keep of their teacher."""

    teachers: Path = Path(os.environ.get("POLICYKD_TEACHERS", "teachers"))
    """Folder of the zoo's agents."""
    own: Path = Path("runs/retention")
    """Folder for the agent that is trained here."""
    out: Path = Path("results/memory_students")
    """Where the rows go."""
    protocol: Literal["long", "full", "short"] = "full"
    """How long and how (``spec.PROTOCOLS``)."""
    tasks: tuple[str, ...] = tuple(TEACHERS)
    """Which tasks; those whose agent is not there are named and left out."""
    students: tuple[str, ...] = tuple(STUDENTS)
    """Which kinds of student."""


def run(options: Options) -> None:
    check_names("tasks", options.tasks, TEACHERS)
    check_names("students", options.students, STUDENTS)
    rows = Measurements(options.out / "rows.csv", KEYS, VALUES)
    for task in options.tasks:
        missing = {
            name: seeds
            for name in options.students
            if (seeds := rows.missing(SEEDS, task=task, protocol=options.protocol, student=name))
        }
        if not missing:
            continue
        _, source = teacher_of(options.teachers, options.own, TEACHERS[task])
        if not source.exists():
            say(f"{task}: left out, there is no {source}")
            continue
        for name, seeds in missing.items():
            rows.add(*cell(task, source, name, options.protocol, seeds))


def cell(task: str, source: Path, name: str, protocol: str, seeds: tuple[int, ...]) -> list[dict[str, object]]:
    """One row per seed of one kind of student on one task."""
    started, (steps, episodes, settings) = time.process_time(), PROTOCOLS[protocol]
    config = {**SETTINGS, **settings, **STUDENTS[name]}
    agent = TeacherStudent(task, source, seeds=seeds, config=config, compile=False)
    agent.learn(steps, progress_bar=True)
    seconds, score = time.process_time() - started, agent.score_teacher()
    assert score is not None
    found, measured = agent.evaluate(episodes, seed=START), []
    for kept, returns, seed in zip(retention(agent, found, START), found.returns, seeds, strict=True):
        row = {"task": task, "protocol": protocol, "student": name, "seed": seed, "steps": steps, "episodes": episodes}
        row |= {"return": round(float(returns.mean()), 1), "random_return": round(score.random_mean, 1), **kept}
        measured.append(row | {"parameters": agent.learner.actor.shape[1], "cpu_seconds": round(seconds, 1)})
        say(f"{task}, {name}, seed {seed}: {row['return']:,} (retention {kept['retention']:.2f})")
    return measured


if __name__ == "__main__":
    guarded(lambda: run(tyro.cli(Options, description=__doc__)))
