"""Distil rl-baselines3-zoo's agents into 64x64 students with DAgger: results/teacher_student/zoo.csv and a table.

The agents are not part of this project: say where they are with --teachers or the variable POLICYKD_TEACHERS.
"""

import os
import time
from dataclasses import dataclass
from pathlib import Path

import tyro

from experiments.measurements import Measurements, check_names
from policykd.benchmark import students
from policykd.cli import guarded
from policykd.cli.output import say
from policykd.core.errors import PolicyKDError
from policykd.training.teacher_student import TeacherStudent

CASES = {
    "SAC HalfCheetah": ("HalfCheetah-v5", "sac/HalfCheetah-v3_1"),
    "PPO HalfCheetah": ("HalfCheetah-v5", "ppo/HalfCheetah-v3_1"),
    "TQC Hopper": ("Hopper-v5", "tqc/Hopper-v3_1"),
}
"""Task and the agent's folder."""


KEYS = ("teacher", "seed")
VALUES = (
    *("student", "method", "backbone", "parameters", "bytes", "flops", "latency_p50", "latency_p99", "return"),
    *("return_ratio", "teacher_return", "random_return", "retention", "teacher_return_here", "return_min"),
    *("teacher_return_min", "falls", "teacher_falls"),
    *(f"{what}_{where}_states" for where in ("student", "teacher") for what in ("distance", "agreement", "kl")),
    *(f"{what}_to_{level:.0%}" for level in students.LEVELS for what in ("steps", "seconds")),
    *("env_steps", "seconds", "cpu_seconds_with_evaluations"),
)


@dataclass
class Options:
    """Students of the zoo's agents."""

    teachers: Path = Path(os.environ.get("POLICYKD_TEACHERS", "teachers"))
    """Folder of the zoo's agents: sac/HalfCheetah-v3_1 and so on."""
    out: Path = Path("results/teacher_student")
    """Where the numbers go."""
    cases: tuple[str, ...] = tuple(CASES)
    """Which teachers."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """One student per seed."""
    total_timesteps: int = 100_000
    """Environment steps of each student."""
    eval_freq: int = 10_000
    """Steps between evaluations, which are not counted as training time."""
    episodes: int = 50
    """Episodes of the final measurement, on starts of their own."""


def run(options: Options) -> None:
    check_names("cases", options.cases, CASES)
    rows = Measurements(options.out / "zoo.csv", KEYS, VALUES)
    for case in options.cases:
        if not (seeds := rows.missing(options.seeds, teacher=case, env_steps=options.total_timesteps)):
            continue
        env, folder = CASES[case]
        if not (options.teachers / folder).is_dir():
            raise PolicyKDError(f"teachers: {options.teachers / folder} is no folder; say where the zoo's agents are")
        settings = {"eval_freq": options.eval_freq, "checkpoint_freq": 0}
        agent = TeacherStudent(env, options.teachers / folder, seeds=seeds, config=settings)
        say(str(agent.score_teacher()))
        started = time.process_time()
        agent.learn(options.total_timesteps, progress_bar=True)
        cpu = round(time.process_time() - started, 1)
        measured = students.measure(agent, episodes=options.episodes)
        rows.add(*({"teacher": case, **row, "cpu_seconds_with_evaluations": cpu} for row in measured))
        say(f"{case}: {agent.run.elapsed:.0f} s for {len(seeds)} students together, {cpu:.0f} s of one core")
    text = [
        "# DAgger students of rl-baselines3-zoo's agents",
        "",
        f"64x64 Gaussian students, {options.total_timesteps:,} environment steps each, default",
        "settings; returns are means over "
        f"{options.episodes} episodes on starts of their own. Seconds are those of all seeds together, on one thread.",
        "",
    ]
    for case in [case for case in CASES if rows.has(teacher=case, env_steps=options.total_timesteps)]:
        own = rows.where(teacher=case, env_steps=options.total_timesteps).to_dict("records")
        ratios = ", ".join(f"{row['return_ratio']:.3f}" for row in own)
        text += [f"## {case}", "", f"Teacher {own[0]['teacher_return']:,.0f}; ratio by seed {ratios}; "]
        text[-1] += f"{own[0]['seconds']:.0f} s on a busy machine; with all evaluations "
        text[-1] += f"{own[0]['cpu_seconds_with_evaluations']:.0f} s of one core."
        text += ["", students.table(own), ""]
    (options.out / "zoo.md").write_text("\n".join(text), encoding="utf-8")
    say("\n".join(text))


if __name__ == "__main__":
    guarded(lambda: run(tyro.cli(Options, description=__doc__)))
