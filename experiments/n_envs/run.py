"""What do many environments change? Students by DAgger and SAC on its own, at equal steps and at equal updates.

Nothing here depends on a clock: what is compared is returns after as many environment steps of a learner, all of its
environments together, or after as many gradient steps. Students of HalfCheetah learn from rl-baselines3-zoo's SAC
agent, which is not part of this project (--teachers or POLICYKD_TEACHERS); SAC on Pendulum needs none. A cell, all
seeds, is appended when it is finished, and skipped when it is there.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tyro

from experiments.measurements import Measurements, mean_std
from policykd import DualStudent, TeacherStudent
from policykd.benchmark.documents import publish
from policykd.cli import guarded
from policykd.cli.output import say
from policykd.core.files import write_text
from policykd.measure.pictures import Panel, Series, seed_panels

TEACHER = "sac/HalfCheetah-v3_1"
ENVS = {"dagger": (1, 4, 16, 64), "sac": (1, 2, 4, 8, 16)}
SEEDS = (0, 1, 2, 3, 4)
STUDENT_STEPS = 10_000
"""Environment steps of a student, in rounds of 500 with 125 gradient steps each, whatever ``n_envs`` is."""
STEPS, UPDATES, BETWEEN, LEARNING_STARTS = 4_000, 4_000, 500, 160
"""SAC's environment steps that all have, gradient steps up to which it goes on, those between two evaluations, and
first steps at random."""
EPISODES, START = 5, 1_000_000
"""Of every evaluation, on starts that all share, and their seed."""
QUIET = {"eval_freq": 0, "n_eval_episodes": 0, "checkpoint_freq": 0, "log_freq": 10_000_000}
DAGGER = {**QUIET, "net_arch": (64, 64), "round_steps": 500, "round_updates": 125}
SAC = {
    **{"learning_rate": 1e-3, "net_arch": (64, 64), "batch_size": 64, "buffer_size": 100_000},
    **{"learning_starts": LEARNING_STARTS, **QUIET},
}
KEYS = ("learner", "gradient_steps", "n_envs", "steps", "seed")
VALUES = ("updates", "return", "teacher_return", "episodes")
Row = dict[str, object]


@dataclass(frozen=True)
class Options:
    """Measure returns by the number of environments."""

    teachers: Path = Path(os.environ.get("POLICYKD_TEACHERS", "teachers"))
    """Folder of the zoo's agents."""
    out: Path = Path("results/n_envs")
    """Where rows, table and picture go."""
    page: Path = Path("docs/many_environments.md")
    """The page that shows the table."""
    report: bool = False
    """Only write table and picture of what is there."""


def main(options: Options) -> None:
    """Run what is missing, then write table and picture."""
    rows = Measurements(options.out / "rows.csv", KEYS, VALUES)

    def add(cell: Callable[..., list[Row]], learner: str, n_envs: int, gradient_steps: int, *source: Path) -> None:
        if not options.report and not rows.has(learner=learner, n_envs=n_envs, gradient_steps=gradient_steps):
            rows.add(*cell(n_envs, gradient_steps, *source))
            say(f"{learner}, n_envs={n_envs}, gradient_steps={gradient_steps}: {rows.rows[-1]['return']}")

    for n_envs in ENVS["sac"]:
        add(measure_sac, "sac", n_envs, 1)
        if n_envs > 1:  # one environment is the same case
            add(measure_sac, "sac", n_envs, -1)
    for n_envs in ENVS["dagger"]:
        add(measure_students, "dagger", n_envs, 0, options.teachers / TEACHER)
    text = table(rows) + "\n"
    write_text(options.out / "table.md", text)
    publish(text, options.page, "n_envs")
    draw(rows, options.out / "n_envs.png")


def measure_students(n_envs: int, gradient_steps: int, source: Path) -> list[Row]:
    """One row per seed of students of HalfCheetah."""
    config = {**DAGGER, "n_envs": n_envs}
    agent = TeacherStudent("HalfCheetah-v5", source, seeds=SEEDS, config=config, compile=False)
    agent.learn(STUDENT_STEPS, progress_bar=True)
    score = agent.score_teacher()
    assert score is not None
    return measured(agent, {"learner": "dagger", "n_envs": n_envs, "gradient_steps": 0, "teacher_return": score.mean})


def measure_sac(n_envs: int, gradient_steps: int) -> list[Row]:
    """One row per seed and evaluation of SAC on Pendulum."""
    config: dict[str, Any] = {**SAC, "n_envs": n_envs, "gradient_steps": gradient_steps}
    agent = DualStudent(
        "Pendulum-v1",
        method="independent",
        peers=1,
        backbone="sac",
        seeds=SEEDS,
        config=config,
        compile=False,
    )
    once = n_envs if gradient_steps == 1 else 1  # environment steps per gradient step
    ends = {STEPS, *(LEARNING_STARTS + once * updates for updates in range(BETWEEN, UPDATES + 1, BETWEEN))}
    label: Row = {"learner": "sac", "n_envs": n_envs, "gradient_steps": gradient_steps, "teacher_return": "nan"}
    found = []
    for end in sorted(ends):
        agent.learn(end - agent.num_timesteps)
        found += measured(agent, label)
    return found


def measured(agent: Any, label: Row) -> list[Row]:
    """What every learner of an agent returns now."""
    returns = agent.evaluate(EPISODES, seed=START).returns.mean(1)
    now = {"steps": agent.num_timesteps, "updates": agent.recipe.n_updates, "episodes": EPISODES}
    return [
        {**label, **now, "seed": seed, "return": round(float(value), 1)}
        for seed, value in zip(SEEDS, returns, strict=True)
    ]


def at(rows: Measurements, n_envs: int, gradient_steps: int, last: bool) -> np.ndarray:
    """SAC's returns ``(seeds,)`` after the common steps, or after the last of its updates."""
    key = {"learner": "sac", "n_envs": n_envs, "gradient_steps": gradient_steps if n_envs > 1 else 1}
    steps = rows.where(**key).steps
    return rows.values("return", **key, steps=steps.max() if last else steps[steps >= STEPS].min())


def table(rows: Measurements) -> str:
    """SAC by the number of environments."""
    lines = ["| `n_envs` | equal steps, `gradient_steps=1` | equal steps, `gradient_steps=-1` | equal updates |"]
    lines.append("|---" * 4 + "|")
    for n_envs in ENVS["sac"]:
        found = (at(rows, n_envs, 1, False), at(rows, n_envs, -1, False), at(rows, n_envs, 1, True))
        lines.append(f"| {n_envs} | {' | '.join(mean_std(values, 0) for values in found)} |")
    return "\n".join(lines)


def draw(rows: Measurements, path: Path) -> None:
    """SAC at equal steps; SAC at equal updates; students at both."""
    envs = ENVS["sac"]
    places, ticks = range(len(envs)), {i: str(n) for i, n in enumerate(envs)}
    equal = {
        f"gradient_steps={each}": Series(places, np.array([at(rows, n, each, False) for n in envs])) for each in (1, -1)
    }

    def curve(n_envs: int) -> Series:
        found = rows.where(learner="sac", n_envs=n_envs, gradient_steps=1).pivot(
            index="updates", columns="seed", values="return"
        )
        return Series(list(found.index), found.to_numpy())

    taught = ENVS["dagger"]
    students = [rows.values("return", learner="dagger", n_envs=n) for n in taught]
    updates = {f"n_envs={n}": curve(n) for n in envs}
    names = {i: str(n) for i, n in enumerate(taught)}
    dagger = {"students": Series(range(len(taught)), np.array(students))}
    panels = [
        Panel(f"SAC, Pendulum, {STEPS:,} steps", "n_envs", "return", equal, ticks),
        Panel("SAC, Pendulum, gradient_steps=1", "gradient steps", "return ", updates),
        Panel(f"DAgger, HalfCheetah, {STUDENT_STEPS:,} steps", "n_envs", "return  ", dagger, names),
    ]
    seed_panels(panels, path, "Many environments", "steps: of a learner, all of its environments together")


if __name__ == "__main__":
    guarded(lambda: main(tyro.cli(Options, description=__doc__)))
