"""Every method of TeacherStudent under imperfect teachers, partial observations and tiny students, on two tasks.

Appends one row per student to results/teacher_student/methods.csv and skips what is there, so that it can be stopped
and started again. --report makes the tables from that file (needs rliable: pip install policykd[benchmark]).
"""

import csv
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro
from policykd_envs.wrappers import velocity_indices

from policykd.cli import guarded
from policykd.cli.output import say
from policykd.core.errors import PolicyKDError
from policykd.distillation.methods import TEACHER_METHODS
from policykd.teachers import Teacher
from policykd.training.teacher_student import TeacherStudent

TASKS = {"HalfCheetah-v5": "sac/HalfCheetah-v3_1", "Hopper-v5": "tqc/Hopper-v3_1"}
"""Tasks and their teachers."""
METHODS = [name for name in TEACHER_METHODS if name != "fine_tune"]
SETTINGS: dict[str, Any] = {
    **{"eval_freq": 0, "n_eval_episodes": 1, "log_freq": 10_000_000, "checkpoint_freq": 0, "allow_weak_teacher": True},
    **{"n_envs": 8, "round_steps": 500, "round_updates": 125, "teacher_episodes": 10},
    **{"n_steps": 32, "batch_size": 64, "n_epochs": 10, "learning_rate": 1e-3},
}
"""The same for every method: short rollouts, for a short budget."""


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

    def distribution(self, observations: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        """As the teacher's, but for the states where it errs."""
        mean, std = super().distribution(observations)
        wrong = torch.rand(len(mean), 1, generator=self.generator) < self.share
        random = torch.rand(mean.shape, generator=self.generator) * 2 - 1
        return torch.where(wrong, (0.999 * random).atanh() if self.squashed else random, mean), std


def disturbed(teacher: Teacher, seed: int, scale: float = 0.05) -> Teacher:
    """Gaussian noise on every weight, of ``scale`` times the deviation of its tensor."""
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
FIELDS = (
    *("task", "condition", "method", "seed", "return"),
    *("teacher_return", "intact_return", "random_return", "steps", "seconds"),
)


@dataclass
class Options:
    """All methods, side by side."""

    teachers: Path = Path(os.environ.get("POLICYKD_TEACHERS", "teachers"))
    """Folder of the zoo's agents."""
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
    max_cells: int | None = None
    """Stop after so many cells of the table."""
    report: bool = False
    """Only make the tables from what is there."""


def run(options: Options) -> None:
    path = options.out / "methods.csv"
    if options.report:
        report(options, path)
        return
    done = {(row["task"], row["condition"], row["method"]) for row in read(path)}
    every = [(c, t, m) for c in options.conditions for m in options.methods for t in TASKS]
    cells = [(c, t, m) for c, t, m in every if (t, c, m) not in done]
    intact: dict[str, float] = {}
    for number, (condition, task, method) in enumerate(cells[: options.max_cells]):
        source = options.teachers / TASKS[task]
        if not source.is_dir():
            raise PolicyKDError(f"teachers: {source} is no folder; say where the zoo's agents are with --teachers")
        weaken, settings = CONDITIONS[condition]
        if task not in intact:
            intact[task] = Teacher.load(source, task).score(task, 10, seed=0).mean
        config = {**SETTINGS, **settings(task)}
        started = time.perf_counter()
        agent = TeacherStudent(
            task, weaken(Teacher.load(source, task)), method=method, seeds=options.seeds, config=config
        )
        agent.learn(options.total_timesteps)
        returns, score = agent.evaluate(options.episodes, seed=1_000_000).returns.mean(1), agent.score_teacher()
        assert score is not None
        measured = score.mean, intact[task], score.random_mean, options.total_timesteps
        seconds = round(time.perf_counter() - started, 1)
        rows = [
            (task, condition, method, seed, value, *measured, seconds)
            for seed, value in zip(options.seeds, returns.tolist(), strict=True)
        ]
        append(path, rows)
        say(
            f"{number + 1}/{len(cells)} {task}, {condition}, {method}: {returns.round(0)} of {score.mean:.0f}; "
            f"{seconds} s"
        )


def read(path: Path) -> list[dict[str, str]]:
    if not path.exists():
        return []
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def append(path: Path, rows: list[tuple[Any, ...]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    new = not path.exists()
    with open(path, "a", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        if new:
            writer.writerow(FIELDS)
        writer.writerows(rows)


def report(options: Options, path: Path) -> None:
    """Interquartile means of student / intact teacher, with 95 % stratified bootstrap intervals (rliable)."""
    from rliable import library, metrics

    rows = read(path)
    seeds = len({row["seed"] for row in rows})
    lines = [
        "# All methods under imperfect conditions",
        "",
        f"Return of the student over that of the intact teacher, after {rows[0]['steps']} environment steps; the",
        f"interquartile mean over {seeds} seeds and both tasks, with 95 % stratified bootstrap intervals (rliable),",
        "and the mean over seeds of each task. Raw numbers: methods.csv. Command:",
        "`python -m experiments.teacher_student.methods`.",
        "",
    ]
    for condition in dict.fromkeys(row["condition"] for row in rows):
        own = [row for row in rows if row["condition"] == condition]
        tasks = list(dict.fromkeys(row["task"] for row in own))
        scores: dict[str, np.ndarray] = {}
        for method in dict.fromkeys(row["method"] for row in own):
            columns = [
                [
                    float(r["return"]) / float(r["intact_return"])
                    for r in own
                    if r["task"] == t and r["method"] == method
                ]
                for t in tasks
            ]
            if all(len(column) == seeds for column in columns):
                scores[method] = np.array(columns).T
        iqm, interval = library.get_interval_estimates(
            scores, lambda x: np.array([metrics.aggregate_iqm(x)]), reps=5000, random_state=np.random.RandomState(0)
        )
        first = {task: next(row for row in own if row["task"] == task) for task in tasks}
        ratios = {t: float(r["teacher_return"]) / float(r["intact_return"]) for t, r in first.items()}
        lines += [f"## {condition}", "", "The teacher itself, as it is here: "]
        lines[-1] += ", ".join(f"{task} {ratio:.2f}" for task, ratio in ratios.items()) + "."
        lines += ["", f"| method | IQM | 95 % interval | {' | '.join(tasks)} |", "|---|---|---|" + "---|" * len(tasks)]
        for method in sorted(scores, key=lambda name: -float(iqm[name][0])):
            low, high = interval[method][:, 0]
            means = " | ".join(f"{value:.2f}" for value in scores[method].mean(0))
            lines.append(f"| {method} | {float(iqm[method][0]):.2f} | {low:.2f} to {high:.2f} | {means} |")
        lines.append("")
    (options.out / "methods.md").write_text("\n".join(lines))
    say("\n".join(lines))


if __name__ == "__main__":
    guarded(lambda: run(tyro.cli(Options, description=__doc__)))
