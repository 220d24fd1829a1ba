"""After distillation: PPO by fine_tune() beside the naive way; writes results/teacher_student/fine_tune.csv and .png.

A student of the zoo's TQC Hopper learns for a short while with DAgger. Then it goes on with PPO on the task's reward:
as it is (its standard deviation, no warm-up of the critic, no anchor), or by fine_tune().
"""

import csv
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tyro

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
    rows, curves = [], []
    for way, changes in WAYS.items():
        settings = {"eval_freq": 10_000, "n_eval_episodes": 5, "checkpoint_freq": 0}
        agent = TeacherStudent(options.env, teacher, seeds=options.seeds, config=settings).learn(options.distill_steps)
        first = len(agent.evaluations) - 1
        agent.fine_tune(options.tune_steps, config=changes, progress_bar=True)
        steps = np.array(agent.evaluation_steps[first:]) - options.distill_steps
        returns = np.stack([evaluation.returns.mean(1) for evaluation in agent.evaluations[first:]])
        curves.append(Curve(way, steps, returns))
        for step, values in zip(steps, returns, strict=True):
            rows += [
                {"way": way, "seed": seed, "steps": int(step), "return": float(value)}
                for seed, value in zip(options.seeds, values, strict=True)
            ]
        say(f"{way}: {returns[0].round(0)} -> lowest {returns.min(0).round(0)} -> {returns[-1].round(0)}")
    options.out.mkdir(parents=True, exist_ok=True)
    with open(options.out / "fine_tune.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    score = agent.score_teacher()
    assert score is not None
    learning_curves(
        curves,
        options.out / "fine_tune.png",
        title=f"{options.env}: PPO after DAgger (mean of {len(options.seeds)} seeds)",
        threshold=score.mean,
    )


if __name__ == "__main__":
    guarded(lambda: run(tyro.cli(Options, description=__doc__)))
