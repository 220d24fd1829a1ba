"""After distillation: PPO by fine_tune() beside the naive way; writes results/teacher_student/fine_tune.csv and .png.

A student of the zoo's TQC Hopper learns for a short while with DAgger. Then it goes on with PPO on the task's reward:
as it is (its standard deviation, no warm-up of the critic, no anchor), or by fine_tune().
"""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tyro

from experiments.measurements import Measurements
from policykd import Teacher
from policykd.cli import guarded
from policykd.cli.output import say
from policykd.core.errors import PolicyKDError
from policykd.measure.plots import Curve, learning_curves
from policykd.training.teacher_student import TeacherStudent

NAIVE = {"distill_coef": 0.0, "critic_steps": 0, "fixed_std_steps": 0, "fine_tune_std": float(np.exp(-1.0))}
"""PPO as it would go on from the distilled policy: a student's standard deviation is exp(-1) at first."""
WAYS: dict[str, dict[str, Any]] = {"naive": NAIVE, "fine_tune()": {}}


@dataclass
class Options:
    """Fine-tuning beside the naive way."""

    teachers: Path = Path(os.environ.get("POLICYKD_TEACHERS", "teachers"))
    """Folder of the zoo's agents."""
    teacher: str = "tqc/Hopper-v3_1"
    """The teacher, below that folder."""
    env: str = "Hopper-v5"
    """Task."""
    out: Path = Path("results/teacher_student")
    """Where the numbers go."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """One student per seed."""
    distill_steps: int = 20_000
    """Environment steps with DAgger."""
    tune_steps: int = 100_000
    """Environment steps with PPO."""


def run(options: Options) -> None:
    teacher = options.teachers / options.teacher
    if not teacher.exists():
        raise PolicyKDError(f"teachers: there is no {teacher}; say where the zoo's agents are with --teachers")
    rows = Measurements(options.out / "fine_tune.csv", ("way", "seed", "steps"), ("return",))
    for way, changes in WAYS.items():
        if not (seeds := rows.missing(options.seeds, way=way)):
            continue
        settings = {"eval_freq": 10_000, "n_eval_episodes": 5, "checkpoint_freq": 0}
        agent = TeacherStudent(options.env, teacher, seeds=seeds, config=settings).learn(options.distill_steps)
        first = len(agent.evaluations) - 1
        agent.fine_tune(options.tune_steps, config=changes, progress_bar=True)
        steps = np.array(agent.evaluation_steps[first:]) - options.distill_steps
        returns = np.stack([evaluation.returns.mean(1) for evaluation in agent.evaluations[first:]])
        rows.add(
            *(
                {"way": way, "seed": seed, "steps": int(step), "return": float(value)}
                for step, values in zip(steps, returns, strict=True)
                for seed, value in zip(seeds, values, strict=True)
            )
        )
        say(f"{way}: {returns[0].round(0)} -> lowest {returns.min(0).round(0)} -> {returns[-1].round(0)}")
    tables = {way: rows.where(way=way).pivot(index="steps", columns="seed", values="return") for way in WAYS}
    score = Teacher.load(teacher, options.env).score(options.env)
    learning_curves(
        [Curve(way, table.index.to_numpy(), table.to_numpy()) for way, table in tables.items()],
        options.out / "fine_tune.png",
        title=f"{options.env}: PPO after DAgger",
        threshold=score.mean,
        mark="teacher",
        xlabel="environment steps of a student",
        over="seeds",
    )


if __name__ == "__main__":
    guarded(lambda: run(tyro.cli(Options, description=__doc__)))
