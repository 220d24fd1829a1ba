"""DAgger students of teachers that choose: size against return, and Rusu's three losses side by side.

Writes results/discrete/students.csv; goes on where it was stopped. ``--only`` names parts, so that several can run at
once into files of their own.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro

from experiments.discrete.teachers import CARTPOLE, LUNAR, MAKE, lander, trained
from experiments.measurements import Measurements, check_names
from policykd import TeacherStudent
from policykd.benchmark import students
from policykd.cli import guarded
from policykd.cli.output import say

SIZES: tuple[tuple[int, ...], ...] = ((64, 64), (16, 16), (8, 8), (4, 4))
LOSSES = ("kl_forward", "nll", "mse")
KEYS = ("part", "teacher", "divergence", "student", "seed")
VALUES = (
    *("parameters", "return", "teacher_return_here", "retention", "return_min", "teacher_return_min"),
    *("agreement_student_states", "agreement_teacher_states", "random_return", "env_steps", "episodes"),
)


@dataclass
class Options:
    """Students of teachers that choose."""

    teachers: Path = Path("runs/discrete_teachers")
    """Where the agents of SB3 are, or are trained."""
    out: Path = Path("results/discrete")
    """Where the numbers go."""
    only: tuple[str, ...] = ("ppo", "lander", "dqn")
    """Which teachers."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """One student per seed."""
    episodes: int = 50
    """Episodes of the final measurement, on starts of their own that the teacher plays, too."""


def cases(name: str, options: Options) -> tuple[str, Any, int, list[tuple[str, str, tuple[int, ...]]]]:
    """Task, teacher, environment steps of each student, and the (part, divergence, size) of every run."""
    if name == "lander":
        return LUNAR, lander, 60_000, [("size", "auto", size) for size in SIZES]
    runs = [("size", "auto", size) for size in SIZES]
    if name == "dqn":
        runs = [("loss", loss, size) for loss in LOSSES for size in SIZES[:3]]
    return CARTPOLE, trained(name, options.teachers), 12_000, runs


def run(options: Options) -> None:
    check_names("only", options.only, {"lander": lander, **MAKE})
    for name in options.only:
        env, teacher, steps, runs = cases(name, options)
        found = Measurements(options.out / f"{name}.csv", KEYS, VALUES)
        for part, divergence, size in runs:
            key = {"part": part, "teacher": name, "divergence": divergence, "student": "x".join(map(str, size))}
            if not (seeds := found.missing(options.seeds, **key)):
                continue
            config = {"net_arch": size, "divergence": divergence, "eval_freq": 0, "n_eval_episodes": 1}
            agent = TeacherStudent(env, teacher, seeds=seeds, config=config)
            agent.learn(steps)
            rows = students.measure(agent, episodes=options.episodes, latency_calls=20)
            found.add(*({**row, **key, "episodes": options.episodes} for row in rows))
            say(f"{key}: kept " + ", ".join(f"{row['retention']:.3f}" for row in rows))


if __name__ == "__main__":
    guarded(lambda: run(tyro.cli(Options)))
