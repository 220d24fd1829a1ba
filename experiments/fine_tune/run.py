"""After distillation, off policy: fine_tune() beside the naive way, and beside the student that is left as it was.

Students of the zoo's agents learn for a short while with DAgger. Then they go on with TD3 or SAC on the task's reward:
as these algorithms are (critics that know nothing, no anchor), or by fine_tune(). At every evaluation the student as it
was plays from the same initial states. Finished runs are kept: start it again to go on.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tyro

from experiments.fine_tune.report import KEYS, VALUES, write
from experiments.measurements import Measurements
from policykd import TeacherStudent
from policykd.cli import guarded
from policykd.cli.output import say
from policykd.core.errors import PolicyKDError


class Task(NamedTuple):
    """A teacher of the zoo, and how long its students are taught and go on."""

    teacher: str
    distill_steps: int
    tune_steps: int


TASKS = {
    "Pendulum-v1": Task("sac/Pendulum-v1_1", 6_000, 8_000),
    "Hopper-v5": Task("tqc/Hopper-v3_1", 15_000, 12_000),
    "HalfCheetah-v5": Task("sac/HalfCheetah-v3_1", 15_000, 12_000),
}
SETTINGS: dict[str, Any] = {
    **{"eval_freq": 0, "n_eval_episodes": 5, "round_updates": 500, "distill_batch_size": 128},
    **{"batch_size": 128, "buffer_size": 30_000, "dataset_size": 30_000},
}
"""Smaller batches than the defaults: what a small budget of processor time buys."""
CRITIC_STEPS = 4_000
WAYS: dict[str, dict[str, Any]] = {
    "naive": {"distill_coef": 0.0, "critic_steps": 0},
    "fine_tune()": {"critic_steps": CRITIC_STEPS},
}


@dataclass(frozen=True)
class Options:
    """Fine-tune distilled students with TD3 and SAC."""

    teachers: Path = Path(os.environ.get("POLICYKD_TEACHERS", "teachers"))
    """Folder of the zoo's agents."""
    out: Path = Path("results/fine_tune")
    """Where the numbers go."""
    work: Path = Path("runs/fine_tune")
    """Where distilled students are kept between runs."""
    tasks: tuple[str, ...] = tuple(TASKS)
    """Which tasks."""
    backbones: tuple[str, ...] = ("td3", "sac")
    """What students are."""
    ways: tuple[str, ...] = tuple(WAYS)
    """How they go on."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """One student per seed. Settings were found on seeds from 1000."""
    eval_freq: int = 2_000
    """Environment steps between evaluations."""
    report: bool = False
    """Only write the table of what is there."""


def distilled(options: Options, env: str, backbone: str) -> Path:
    """The file of distilled students, which are made where they are not there yet."""
    seeds = "-".join(map(str, options.seeds))
    file, task = options.work / f"{env}_{backbone}_{seeds}.safetensors", TASKS[env]
    if not file.exists():
        teacher = options.teachers / task.teacher
        if not teacher.exists():
            raise PolicyKDError(f"teachers: there is no {teacher}; say where the zoo's agents are with --teachers")
        options.work.mkdir(parents=True, exist_ok=True)
        agent = TeacherStudent(env, teacher, backbone=backbone, seeds=options.seeds, config=SETTINGS, compile=False)
        agent.learn(task.distill_steps).save(file, include_replay=True)
    return file


def run(options: Options, measured: Measurements, env: str, backbone: str, way: str) -> None:
    """One way of going on, of all seeds at once, and the rows of its evaluations."""
    task, file = TASKS[env], distilled(options, env, backbone)
    agent, student = (TeacherStudent.load(file, teacher=options.teachers / task.teacher) for _ in range(2))
    begun, at = time.process_time(), len(agent.evaluations)
    agent.fine_tune(task.tune_steps, config={"eval_freq": options.eval_freq, **WAYS[way]})
    seconds = time.process_time() - begun
    assert agent.score is not None
    rows = []
    for steps, after in zip(agent.evaluation_steps[at:], agent.evaluations[at:], strict=True):
        student.run.num_timesteps = steps  # the initial states of an evaluation depend on it
        before = student.evaluate()
        for k, seed in enumerate(options.seeds):
            rows.append(
                {
                    **{"env": env, "backbone": backbone, "way": way, "seed": seed, "steps": steps - task.distill_steps},
                    **{"return": after.returns[k].mean(), "student": before.returns[k].mean()},
                    **{"teacher": agent.score.mean, "random": agent.score.random_mean, "seconds": round(seconds, 1)},
                }
            )
    measured.add(*rows)
    returns = np.array([row["return"] for row in rows]).reshape(-1, len(options.seeds))
    before_all = np.array([row["student"] for row in rows]).reshape(returns.shape).mean(0)
    say(f"{env} {backbone} {way}: {before_all.round(0)} -> lowest {returns.min(0).round(0)} -> {returns[-1].round(0)}")


def main(options: Options) -> None:
    measured = Measurements(options.out / "rows.csv", KEYS, VALUES)
    if not options.report:
        for env in options.tasks:
            for backbone in options.backbones:
                for way in options.ways:
                    if not measured.has(env=env, backbone=backbone, way=way, seed=options.seeds[0]):
                        run(options, measured, env, backbone, way)
    write(measured, options.out)


if __name__ == "__main__":
    guarded(lambda: main(tyro.cli(Options, description=__doc__)))
