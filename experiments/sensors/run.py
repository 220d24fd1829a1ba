"""Which of a robot's sensors does a student need? HalfCheetah by groups of observations: rows, table and picture.

The teacher, rl-baselines3-zoo's SAC agent, reads all 17 numbers of a simulator; students learn from it by DAgger and
see what sensors of a robot give, once and with a memory of four. A student's rows are appended when its seeds are
finished, and skipped when they are there. The agent is not part of this project: say where it is with --teachers or
POLICYKD_TEACHERS.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tyro

from experiments.measurements import Measurements, mean_std
from policykd import TeacherStudent
from policykd.benchmark.documents import publish
from policykd.benchmark.retention import retention
from policykd.cli import guarded
from policykd.cli.output import say
from policykd.core.files import write_text
from policykd.measure.pictures import Panel, Series, seed_panels

TASK, TEACHER = "HalfCheetah-v5", "sac/HalfCheetah-v3_1"
GROUPS = {
    "height": (0,),
    "pitch": (1,),
    "joints": tuple(range(2, 8)),
    "speed": (8, 9),
    "gyroscope": (10,),
    "joint_rates": tuple(range(11, 17)),
}
"""Columns by what would measure them: nothing aboard measures height and speed, an IMU the pitch and its rate."""
SENSORS: dict[str, tuple[str, ...]] = {
    "everything": tuple(GROUPS),
    "IMU, encoders with rates": ("pitch", "joints", "gyroscope", "joint_rates"),
    "encoders with rates": ("joints", "joint_rates"),
    "encoders": ("joints",),
}
HISTORIES = (1, 4)
SEEDS = (0, 1, 2)
STEPS, EPISODES, START = 20_000, 10, 1_000_000
"""Environment steps of a student; episodes of the measurement, and the seed of their starts."""
SETTINGS = {
    **{"net_arch": (64, 64), "n_envs": 8, "round_updates": 500},
    **{"eval_freq": 0, "n_eval_episodes": 0, "checkpoint_freq": 0, "log_freq": 10_000_000},
}
"""Half of the default's gradient steps; all else is the default of DAgger."""
KEYS = ("sensors", "history", "seed")
VALUES = ("numbers", "return", "retention", "teacher_return_here", "random_return", "steps", "episodes", "cpu_seconds")


@dataclass(frozen=True)
class Options:
    """Measure what students keep of their teacher by what they see."""

    teachers: Path = Path(os.environ.get("POLICYKD_TEACHERS", "teachers"))
    """Folder of the zoo's agents."""
    out: Path = Path("results/sensors")
    """Where rows, table and picture go."""
    page: Path = Path("docs/groups.md")
    """The page that shows the table."""
    report: bool = False
    """Only write table and picture of what is there."""


def main(options: Options) -> None:
    """Run what is missing, then write table and picture."""
    rows = Measurements(options.out / "rows.csv", KEYS, VALUES)
    for sensors in SENSORS if not options.report else ():
        for history in HISTORIES:
            if not rows.has(sensors=sensors, history=history):
                rows.add(*cell(options.teachers / TEACHER, sensors, history))
    text = table(rows) + "\n"
    write_text(options.out / "table.md", text)
    publish(text, options.page, "sensors")
    draw(rows, options.out / "sensors.png")


def cell(source: Path, sensors: str, history: int) -> list[dict[str, object]]:
    """One row per seed of students that see these sensors."""
    started, seen = time.process_time(), SENSORS[sensors]
    config = {**SETTINGS, "observation_groups": GROUPS, "student_observations": seen, "history": history}
    agent = TeacherStudent(TASK, source, seeds=SEEDS, config=config, compile=False)
    agent.learn(STEPS, progress_bar=True)
    seconds, score = time.process_time() - started, agent.score_teacher()
    assert score is not None
    found, measured = agent.evaluate(EPISODES, seed=START), []
    for kept, returns, seed in zip(retention(agent, found, START), found.returns, SEEDS, strict=True):
        row = {"sensors": sensors, "history": history, "seed": seed, "numbers": sum(len(GROUPS[n]) for n in seen)}
        row |= {"return": round(float(returns.mean()), 1), "random_return": round(score.random_mean, 1)}
        row |= {"steps": STEPS, "episodes": EPISODES, "cpu_seconds": round(seconds, 1)}
        measured.append(row | {name: kept[name] for name in ("retention", "teacher_return_here")})
        say(f"{sensors}, history of {history}, seed {seed}: {row['return']:,} (retention {kept['retention']:.2f})")
    return measured


def table(rows: Measurements) -> str:
    """A line per set of sensors: what students keep by history."""
    lines = ["| sensors | groups | numbers | one observation | the latest four |", "|---" * 5 + "|"]
    for sensors, groups in SENSORS.items():
        found = rows.where(sensors=sensors)
        kept = [mean_std(rows.values("retention", sensors=sensors, history=history), 2) for history in HISTORIES]
        names = "all" if sensors == "everything" else ", ".join(groups)
        lines.append(f"| {sensors} | {names} | {found.numbers.iloc[0]} | {' | '.join(kept)} |")
    return "\n".join(lines)


def draw(rows: Measurements, path: Path) -> None:
    """What is kept by sensors, a series for each history."""

    def series(history: int) -> Series:
        kept = [rows.values("retention", sensors=sensors, history=history) for sensors in SENSORS]
        return Series(range(len(SENSORS)), np.array(kept))

    names = {1: "one observation", 4: "the latest four"}
    ticks = dict(enumerate(SENSORS))
    panel = Panel("", "", "return over the teacher's", {names[h]: series(h) for h in HISTORIES}, ticks)
    seed_panels([panel], path, "What a student keeps by what it sees", f"{STEPS:,} steps")


if __name__ == "__main__":
    guarded(lambda: main(tyro.cli(Options, description=__doc__)))
