"""What default students keep of teachers on which no default was chosen, and what one other setting would change.

    python -m experiments.teacher_student.retention --teachers FOLDER    # or set POLICYKD_TEACHERS
    python -m experiments.teacher_student.retention --report             # rewrite the table from the rows

FOLDER holds agents of rl-baselines3-zoo; the others are trained by PPO where they are missing. At every fifth of the
budget each student plays episodes, and its teacher the same ones. Finished cells are kept: start it again to go on.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch
import tyro

from experiments.measurements import Measurements, check_names, interval
from policykd import DualStudent, TeacherStudent
from policykd.benchmark.documents import publish
from policykd.benchmark.retention import retention
from policykd.cli import guarded
from policykd.cli.output import say

ZOO = {
    "SAC HalfCheetah": ("HalfCheetah-v5", "sac/HalfCheetah-v3_1"),
    "TQC Hopper": ("Hopper-v5", "tqc/Hopper-v3_1"),
    "PPO HalfCheetah": ("HalfCheetah-v5", "ppo/HalfCheetah-v3_1"),
}
"""Task and folder of the zoo's agents."""
OWN: dict[str, tuple[str, dict[str, Any]]] = {
    "PPO Walker2d": ("Walker2d-v5", {}),
    "PPO Hopper": ("Hopper-v5", {}),
    "PPO Swimmer": ("Swimmer-v5", {"gamma": 0.9999}),
}
"""Task and settings of agents that are trained here, in ``OWN_STEPS`` with observations and rewards normalised."""
OWN_STEPS = 1_000_000
TEACHERS = (*ZOO, *OWN)
DEFAULT = "default"
VARIANTS: dict[str, dict[str, Any]] = {
    DEFAULT: {},
    "constant learning rate": {"distill_schedule": "constant"},
    "averaged weights": {},
    "256x256": {"net_arch": (256, 256)},
    "student acts from the start": {"beta_rounds": 1},
    "noise of 0.1 on what is acted": {"collect_noise_std": 0.1},
    "twice the updates": {"round_updates": 2_000},
}
"""One setting of the students that is not the default one."""
AVERAGED = "averaged weights"
SHARE, ROUND = 0.1, 1_000
"""Part of the new weights in their moving average, at least, and after how many steps of a student it takes them."""
KEYS = ("teacher", "variant", "total_timesteps", "steps", "seed")
VALUES = ("retention", "teacher_return_here", "return_min", "teacher_return_min", "falls", "teacher_falls")
ADDED = {"total_timesteps": "100000"}
"""The budget of rows that were written before its column."""
CHECKS = 5


@dataclass(frozen=True)
class Options:
    """Measure what students keep."""

    teachers: Path = Path(os.environ.get("POLICYKD_TEACHERS", "teachers"))
    """Folder of the zoo's agents."""
    own: Path = Path("runs/retention")
    """Folder for the agents that are trained here."""
    out: Path = Path("results/teacher_student")
    """Folder of the rows."""
    page: Path = Path("docs/students_measured.md")
    """The document that shows the table between its markers."""
    names: tuple[str, ...] = TEACHERS
    """Which teachers."""
    variants: tuple[str, ...] = tuple(VARIANTS)
    """Which settings."""
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    """One student each, all of a cell trained together."""
    total_timesteps: int = 100_000
    """Environment steps of each student."""
    episodes: int = 20
    """Episodes of student and teacher at every check."""
    report: bool = False
    """Only write the table of what is there."""


def main(options: Options) -> None:
    """Run what is missing, then write the table."""
    check_names("names", options.names, dict.fromkeys(TEACHERS))
    check_names("variants", options.variants, VARIANTS)
    rows = Measurements(options.out / "retention.csv", KEYS, VALUES, ADDED)
    budget = {"total_timesteps": options.total_timesteps}
    for variant in () if options.report else options.variants:
        for name in options.names:
            if seeds := rows.missing(options.seeds, teacher=name, variant=variant, **budget):
                rows.add(*({**row, **budget} for row in cell(options, name, variant, seeds)))
                say(table(rows.where(**budget)))
    text = table(rows.where(**budget))
    publish(text, options.page, "retention table")
    print(text)


def teacher_of(zoo: Path, own: Path, name: str) -> tuple[str, Path]:
    """A teacher's task, and its place in ``zoo``, or in ``own`` where it is trained if it is missing."""
    if name in ZOO:
        task, folder = ZOO[name]
        return task, zoo / folder
    task, settings = OWN[name]
    file = own / f"{task}_{OWN_STEPS}.safetensors"
    if not file.exists():
        config = {"normalize_observation": True, "normalize_reward": True, "eval_freq": 0, **settings}
        agent = DualStudent(task, method="independent", backbone="ppo", peers=1, seeds=(0,), config=config)
        agent.learn(OWN_STEPS).save(file)
    return task, file


def cell(options: Options, name: str, variant: str, seeds: tuple[int, ...]) -> list[dict[str, Any]]:
    """A row per check and student of one teacher with one setting."""
    task, path = teacher_of(options.teachers, options.own, name)
    config = {"eval_freq": 0, "checkpoint_freq": 0, **VARIANTS[variant]}
    agent = TeacherStudent(task, path, seeds=seeds, config=config)
    average, found = agent.learner.actor.clone(), list[dict[str, Any]]()

    def check(local_variables: dict[str, Any], _: dict[str, Any]) -> bool:
        steps = agent.num_timesteps
        if variant == AVERAGED and steps % ROUND == 0:
            average.lerp_(agent.learner.actor, max(SHARE, ROUND / steps))
        if steps % (options.total_timesteps // CHECKS) == 0:
            found.extend(checked(options, agent, average if variant == AVERAGED else agent.learner.actor))
        return True

    agent.learn(options.total_timesteps, callback=check)
    return [{"teacher": name, "variant": variant, **row} for row in found]


def checked(options: Options, agent: TeacherStudent, weights: torch.Tensor) -> list[dict[str, Any]]:
    """A row per student with these weights ``(K, P)`` of the actors."""
    seed, own = 1_000_000, agent.learner.actor.clone()
    agent.learner.actor.copy_(weights)
    measured = retention(agent, agent.evaluate(options.episodes, seed=seed), seed)
    agent.learner.actor.copy_(own)
    return [{"steps": agent.num_timesteps, "seed": s, **row} for s, row in zip(agent.seeds, measured, strict=True)]


def table(rows: pd.DataFrame) -> str:
    """Means over seeds with 95 % t-intervals, in the end and at the earlier checks, as Markdown."""
    lines = ["| teacher | students | retention | lowest mean of a check from half the budget on | falls, teacher's |"]
    lines.append("|---|---|---|---|---|")
    for name in TEACHERS:
        for variant in VARIANTS:
            own = rows[(rows["teacher"] == name) & (rows["variant"] == variant)]
            if not len(own):
                continue
            last = own[own["steps"] == own["steps"].max()]
            late = own[own["steps"] > own["steps"].max() / 2].groupby("steps")["retention"].mean().min()
            falls = f"{last['falls'].mean():.1f}, {last['teacher_falls'].mean():.1f}"
            lines.append(f"| {name} | {variant} | {interval(last['retention'], 3)} | {late:.3f} | {falls} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    guarded(lambda: main(tyro.cli(Options, description=__doc__)))
