"""Every method of TeacherStudent under imperfect teachers, partial observations and tiny students, on three tasks.

Adds the rows of a cell, one per student, to results/teacher_student/methods.csv when it is finished and skips what is
there, so that it can be stopped and started again. --report makes the tables from that file (needs rliable: pip install
policykd[benchmark]).
"""

import hashlib
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
import tyro
from policykd_envs.wrappers import velocity_indices

from experiments.measurements import Measurements, check_names
from experiments.teacher_student.retention import teacher_of
from policykd.benchmark.bootstrap import interval, iqm
from policykd.cli import guarded
from policykd.cli.output import say
from policykd.core.errors import PolicyKDError
from policykd.core.files import write_text
from policykd.distillation.methods import TEACHER_METHODS
from policykd.teachers import Teacher
from policykd.training.teacher_student import TeacherStudent

TASKS = {"HalfCheetah-v5": "SAC HalfCheetah", "Hopper-v5": "TQC Hopper", "Walker2d-v5": "PPO Walker2d"}
"""Tasks and their teachers; the last one is trained where it is missing."""
METHODS = [name for name in TEACHER_METHODS if name != "fine_tune"]
SETTINGS: dict[str, Any] = {
    **{"eval_freq": 0, "n_eval_episodes": 1, "log_freq": 10_000_000, "checkpoint_freq": 0, "allow_weak_teacher": True},
    **{"teacher_episodes": 10},
}
"""The same for every method."""
SHORT: dict[str, Any] = {
    **{"n_envs": 8, "round_steps": 500, "round_updates": 125},
    **{"n_steps": 32, "batch_size": 64, "n_epochs": 10, "learning_rate": 1e-3},
}
"""Short rollouts, for budgets below 100,000 steps; longer ones have the defaults."""


class Weakened(Teacher):
    """A teacher with something wrong."""

    def __init__(self, teacher: Teacher) -> None:
        vars(self).update(vars(teacher))


class Erring(Weakened):
    """Some of its answers are uniformly random actions, which it also teaches."""

    share = 0.25

    def __init__(self, teacher: Teacher, seed: int) -> None:
        super().__init__(teacher)
        self.generator = torch.Generator().manual_seed(seed)

    def distribution(self, observations: torch.Tensor | np.ndarray) -> tuple[torch.Tensor, torch.Tensor | None]:
        """As the teacher's, but for the states where it errs."""
        mean, std = super().distribution(observations)
        wrong = torch.rand(len(mean), 1, generator=self.generator) < self.share
        random = torch.rand(mean.shape, generator=self.generator) * 2 - 1
        return torch.where(wrong, (0.999 * random).atanh() if self.squashed else random, mean), std


def disturbed(teacher: Teacher, seed: int, scale: float = 0.05) -> Teacher:
    """Gaussian noise on every weight, of ``scale`` times the deviation of its tensor.

    Raises:
        PolicyKDError: the teacher shows no weights, as an agent of policykd's own: it would stay intact.
    """
    if not teacher.parameters():
        raise PolicyKDError(f"teachers: the weights of {teacher.source} cannot be disturbed: choose other --conditions")
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in teacher.parameters():
            if weight.numel() > 1 and weight.is_floating_point():
                noise = torch.randn(weight.shape, generator=generator, dtype=weight.dtype)
                weight.add_(scale * weight.std() * noise)
    return teacher


def without_velocities(env: str) -> tuple[int, ...]:
    """Columns of a task's observation that are no velocities."""
    import gymnasium as gym

    made = gym.make(env)
    hidden = set(velocity_indices(made).tolist())
    return tuple(column for column in range(made.observation_space.shape[0]) if column not in hidden)  # type: ignore[index]


Condition = tuple[Callable[[Teacher], Teacher], Callable[[str], dict[str, Any]]]
CONDITIONS: dict[str, Condition] = {
    "weights +- 5 %": (lambda teacher: disturbed(teacher, seed=1), lambda env: {}),
    "25 % random actions": (lambda teacher: Erring(teacher, seed=1), lambda env: {}),
    "no velocities": (lambda teacher: teacher, lambda env: {"student_observations": without_velocities(env)}),
    "8x8 student": (lambda teacher: teacher, lambda env: {"net_arch": (8, 8)}),
}
"""What is made of the teacher, and the student's settings; students are 64x64 where nothing is said."""
KEYS = ("task", "condition", "method", "seed")
VALUES = ("return", "teacher_return", "intact_return", "random_return", "steps", "seconds", "teacher")
ADDED = {"teacher": ""}
"""Rows that were written before its column do not say which agent was their teacher."""


@dataclass
class Options:
    """All methods, side by side."""

    teachers: Path = Path(os.environ.get("POLICYKD_TEACHERS", "teachers"))
    """Folder of the zoo's agents."""
    own: Path = Path("runs/retention")
    """Folder of agents that are trained here."""
    out: Path = Path("results/teacher_student")
    """Where the numbers go."""
    total_timesteps: int = 10_000
    """Environment steps of each student."""
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    """One student per seed, all trained together."""
    episodes: int = 5
    """Episodes of the final evaluation of each student."""
    methods: tuple[str, ...] = tuple(METHODS)
    """Which methods."""
    conditions: tuple[str, ...] = tuple(CONDITIONS)
    """Under which conditions."""
    tasks: tuple[str, ...] = tuple(TASKS)
    """On which tasks."""
    max_cells: int | None = None
    """Stop after so many cells of the table."""
    report: bool = False
    """Only make the tables from what is there."""


def run(options: Options) -> None:
    check_names("methods", options.methods, dict.fromkeys(METHODS))
    check_names("conditions", options.conditions, CONDITIONS)
    check_names("tasks", options.tasks, TASKS)
    rows = Measurements(options.out / "methods.csv", KEYS, VALUES, ADDED)
    if options.report:
        report(rows.where(), options.out / "methods.md")
        return
    budget = {"steps": options.total_timesteps}
    every = product(options.conditions, options.methods, options.tasks)
    missing = {(c, t, m): rows.missing(options.seeds, task=t, condition=c, method=m, **budget) for c, m, t in every}
    cells = [cell for cell, seeds in missing.items() if seeds]
    intact: dict[str, dict[str, Any]] = {}
    for number, (condition, task, method) in enumerate(cells[: options.max_cells]):
        _, source = teacher_of(options.teachers, options.own, TASKS[task])
        if not source.exists():
            raise PolicyKDError(f"teachers: {source} is not there; say where the zoo's agents are with --teachers")
        if task not in intact:
            identity = check_teacher(rows, source, task, options.total_timesteps)
            score = Teacher.load(source, task).score(task, 10, seed=0)
            intact[task] = {"intact_return": score.mean, "teacher": identity}
        found = cell(replace(options, seeds=missing[condition, task, method]), condition, task, method, source)
        rows.add(*({**row, **intact[task], **budget} for row in found))
        returns = ", ".join(f"{row['return']:.0f}" for row in found)
        say(f"{number + 1}/{len(cells)} {task}, {condition}, {method}: {returns} of {found[0]['teacher_return']:.0f}")


def check_teacher(rows: Measurements, source: Path, task: str, steps: int) -> str:
    """The digest of an agent's file, which identifies it in its rows.

    Raises:
        PolicyKDError: the rows of this task and budget are of another agent: their ratios are not comparable.
    """
    files = [source] if source.is_file() else sorted(source.rglob("*.zip"))
    identity = hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()[:12]
    of_table = [row for row in rows.rows if (row["task"], row["steps"]) == (task, str(steps))]
    if others := {row["teacher"] for row in of_table} - {identity, ""}:
        raise PolicyKDError(
            f"teachers: {source} is agent {identity}, but the rows of {task} at {steps:,} steps in {rows.path} are of "
            f"{', '.join(sorted(others))}: give that agent, or choose another --out"
        )
    return identity


def cell(options: Options, condition: str, task: str, method: str, source: Path) -> list[dict[str, Any]]:
    """A row per student of one method under one condition of the teacher ``source`` on one task."""
    weaken, changes = CONDITIONS[condition]
    config = {**SETTINGS, **(SHORT if options.total_timesteps < 100_000 else {}), **changes(task)}
    started, teacher = time.perf_counter(), weaken(Teacher.load(source, task))
    agent = TeacherStudent(task, teacher, method=method, seeds=options.seeds, config=config)
    agent.learn(options.total_timesteps)
    returns, score = agent.evaluate(options.episodes, seed=1_000_000).returns.mean(1), agent.score_teacher()
    assert score is not None
    common = {"task": task, "condition": condition, "method": method, "random_return": score.random_mean}
    common |= {"teacher_return": score.mean, "seconds": round(time.perf_counter() - started, 1)}
    return [
        {**common, "seed": seed, "return": value} for seed, value in zip(options.seeds, returns.tolist(), strict=True)
    ]


def report(rows: pd.DataFrame, page: Path) -> None:
    """A table per budget and condition."""
    lines = [
        "# All methods under imperfect conditions",
        "",
        "Return of the student over that of the intact teacher; the interquartile mean over all seeds and the tasks",
        "that are there, with 95 % stratified bootstrap intervals (rliable), and the mean over seeds of each task. Raw",
        "numbers: methods.csv. Command: `python -m experiments.teacher_student.methods`.",
        "",
    ]
    rows = rows.assign(ratio=rows["return"] / rows.intact_return)
    for (steps, condition), own in rows.groupby(["steps", "condition"], sort=False):
        lines += [f"## {condition}, {steps:,} environment steps", "", *table(own), ""]
    write_text(page, "\n".join(lines))
    say("\n".join(lines))


def table(own: pd.DataFrame) -> list[str]:
    """Interquartile means of student / intact teacher, best first, of methods that all tasks have."""
    tasks = list(own.task.unique())
    scores = {
        method: np.array([of.loc[of.task == task, "ratio"].to_numpy() for task in tasks]).T
        for method, of in own.groupby("method", sort=False)
        if of.task.nunique() == len(tasks)
    }
    found = {name: interval(ratios, lambda x: iqm(x.ravel()), 5000) for name, ratios in scores.items()}
    first = own.drop_duplicates("task").set_index("task")
    itself = ", ".join(f"{task} {first.teacher_return[task] / first.intact_return[task]:.2f}" for task in tasks)
    lines = [f"The teacher itself, as it is here: {itself}.", ""]
    lines += [f"| method | IQM | 95 % interval | {' | '.join(tasks)} |", "|---|---|---|" + "---|" * len(tasks)]
    for method in sorted(found, key=lambda name: -found[name].value):
        value, low, high = found[method]
        means = " | ".join(f"{value:.2f}" for value in scores[method].mean(0))
        lines.append(f"| {method} | {value:.2f} | {low:.2f} to {high:.2f} | {means} |")
    return lines


if __name__ == "__main__":
    guarded(lambda: run(tyro.cli(Options, description=__doc__)))
