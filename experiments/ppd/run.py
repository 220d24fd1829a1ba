"""Why is Proximal Policy Distillation weak at a short budget, and does it keep 0.99 of a teacher at its paper's?

The same students by PPD (Spigler 2025, equation 3), by its loss without the ratio, and without RL, measured as they
train. Appends the rows of a cell (a protocol and a way, all seeds) when it is finished and skips what is there: start
it again to go on. The teachers are not part of this project: say where they are with --teachers or POLICYKD_TEACHERS.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import tyro

from experiments.measurements import Measurements, check_names
from policykd import TeacherStudent
from policykd.benchmark.retention import retention
from policykd.cli import guarded
from policykd.cli.output import say
from policykd.distillation.methods import TEACHER_METHODS, TeacherMethod
from policykd.learners import PPO
from policykd.training.recipes.taught_rollouts import TaughtOnRollouts

KEYS = ("protocol", "way", "seed", "steps")
VALUES = ("return", "teacher_return", "retention", "distance", "std", "episodes", "parameters", "cpu_seconds")
TASK, START, EPISODES = "HalfCheetah-v5", 1_000_000, 20
SEEDS = (0, 1, 2)

PPD = TEACHER_METHODS["ppd"]
WAYS: dict[str, TeacherMethod] = {
    "ppd": PPD,
    "ppd without the ratio": replace(PPD, name="no_ratio", coupling="joint"),
    "ppd without RL": replace(PPD, name="no_rl", environment_reward=False),
}
"""The method; what the gradient through the ratio does; what PPO's loss does."""

COMMON: dict[str, Any] = {"eval_freq": 0, "n_eval_episodes": 0, "checkpoint_freq": 0, "log_freq": 10_000_000}
PAPER: dict[str, Any] = {
    **{"net_arch": (128, 64), "activation_fn": "relu", "n_envs": 16, "n_steps": 64, "batch_size": 512, "n_epochs": 4},
    **{"gamma": 0.995, "gae_lambda": 0.9, "learning_rate": 3e-4},
}
"""The paper's smaller student and settings, with 16 environments for its 18, so that batches of 512 fill a rollout."""
TABLE: dict[str, Any] = {"n_envs": 8, "n_steps": 32, "batch_size": 64, "n_epochs": 10, "learning_rate": 1e-3}
"""Those of experiments/teacher_student/methods.py, whose budget is 10,000 steps."""
PROTOCOLS: dict[str, tuple[str, dict[str, Any], tuple[int, ...]]] = {
    "paper, PPO teacher": ("ppo/HalfCheetah-v3_1", PAPER, (10_000, 100_000, 300_000, 1_000_000, 2_000_000)),
    "table, SAC teacher": ("sac/HalfCheetah-v3_1", TABLE, (10_000, 100_000, 300_000)),
    "paper, SAC teacher": ("sac/HalfCheetah-v3_1", PAPER, (10_000, 100_000, 300_000, 1_000_000)),
}
"""Who teaches, the student's settings, and the environment steps of each student at which it is measured."""
LAST = {"ppd": 2_000_000, "ppd without the ratio": 1_000_000, "ppd without RL": 1_000_000}
"""Where each way ends."""


@dataclass(frozen=True)
class Options:
    """Measure PPD and its parts."""

    teachers: Path = Path(os.environ.get("POLICYKD_TEACHERS", "teachers"))
    """Folder of the zoo's agents."""
    out: Path = Path("results/ppd")
    """Where the rows go."""
    protocols: tuple[str, ...] = tuple(PROTOCOLS)
    """Which protocols."""
    ways: tuple[str, ...] = tuple(WAYS)
    """Which ways."""


def run(options: Options) -> None:
    check_names("protocols", options.protocols, PROTOCOLS)
    check_names("ways", options.ways, WAYS)
    rows = Measurements(options.out / "rows.csv", KEYS, VALUES)
    for protocol in options.protocols:
        for way in options.ways:
            if not rows.has(protocol=protocol, way=way):
                rows.add(*cell(options.teachers, protocol, way))


def cell(teachers: Path, protocol: str, way: str) -> list[dict[str, object]]:
    """One row per seed and budget of one way under one protocol."""
    source, settings, budgets = PROTOCOLS[protocol]
    started, rows = time.process_time(), []
    agent = TeacherStudent(
        TASK, teachers / source, method=WAYS[way], seeds=SEEDS, config={**COMMON, **settings}, compile=False
    )
    for steps in (steps for steps in budgets if steps <= LAST[way]):
        agent.learn(steps - agent.num_timesteps)
        found, seconds = agent.evaluate(EPISODES, seed=START), time.process_time() - started
        recipe, learner = agent.recipe, agent.learner
        assert isinstance(recipe, TaughtOnRollouts) and isinstance(learner, PPO)
        distances, stds = recipe.last["distill/distance"], learner.log_std.exp().mean(-1)
        for index, (kept, returns) in enumerate(zip(retention(agent, found, START), found.returns, strict=True)):
            row = {"protocol": protocol, "way": way, "seed": SEEDS[index], "steps": agent.num_timesteps}
            row |= {"return": round(float(returns.mean()), 1), "teacher_return": kept["teacher_return_here"]}
            row |= {"retention": round(kept["retention"], 4), "episodes": EPISODES}
            row |= {"distance": round(distances[index].item(), 4), "std": round(stds[index].item(), 4)}
            rows.append(row | {"parameters": learner.actor.shape[1], "cpu_seconds": round(seconds, 1)})
            say(f"{protocol}, {way}, seed {SEEDS[index]}, {steps:,} steps: {row['return']:,} ({row['retention']:.2f})")
    return rows


if __name__ == "__main__":
    guarded(lambda: run(tyro.cli(Options, description=__doc__)))
