"""After distillation, off policy: fine_tune() beside the naive way, and beside the student that is left as it was.

Students of the zoo's agents learn for a short while with DAgger. Then they go on with TD3 or SAC on the task's reward:
as these algorithms are (critics that know nothing, no anchor), with an anchor that fades, on a leash, or by
fine_tune(). At every evaluation the student as it was plays from the same initial states. Finished runs are kept: start
it again to go on.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

import tyro

from experiments.fine_tune.report import AS_IT_WAS, KEYS, VALUES, write
from experiments.measurements import Measurements, check_names
from policykd import TeacherStudent
from policykd.cli import guarded
from policykd.cli.output import say
from policykd.core.errors import PolicyKDError
from policykd.learners import SAC, TD3
from policykd.tasks import Evaluation

TASKS = {
    "Pendulum-v1": "sac/Pendulum-v1_1",
    "Hopper-v5": "tqc/Hopper-v3_1",
    "HalfCheetah-v5": "sac/HalfCheetah-v3_1",
}
"""Tasks, and the zoo's agents that teach them."""


class Protocol(NamedTuple):
    """How long students are taught and go on, and the settings of both."""

    distill_steps: dict[str, int]
    tune_steps: int
    eval_freq: int
    critic_steps: int
    settings: dict[str, Any]


PROTOCOLS = {
    "short": Protocol(
        {"Pendulum-v1": 6_000, "Hopper-v5": 10_000, "HalfCheetah-v5": 12_000},
        *(6_000, 1_000, 2_000),
        {"n_eval_episodes": 5, "round_updates": 500, "distill_batch_size": 64, "batch_size": 64}
        | {"buffer_size": 30_000, "dataset_size": 30_000},
    ),
    "full": Protocol(
        dict.fromkeys(TASKS, 100_000), *(60_000, 5_000, 20_000), {"n_eval_episodes": 10, "buffer_size": 100_000}
    ),
}
"""What little processor time buys; and the default settings."""
NAIVE = {"distill_coef": 0.0, "distill_schedule": "constant", "critic_steps": 0, "fine_tune_learning_rate": 1e-3}
WAYS: dict[str, dict[str, Any]] = {
    "naive": {**NAIVE, "trial_episodes": 0},
    "fading": {"distill_schedule": "linear", "trial_episodes": 0},
    "held by themselves": {"anchor": "student", "trial_episodes": 0},
    "held by the teacher": {"trial_episodes": 0},
    "held by themselves, on trial": {"anchor": "student"},
    "fine_tune()": {},
}
"""As TD3 and SAC are; with new critics first and an anchor that only fades; on a leash of what they were, and of the
teacher; and with these no policy handed out before it has returned as much as the last one."""


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
    protocol: Literal["short", "full"] = "full"
    """How long and how (``PROTOCOLS``)."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """One student per seed. Settings were found on seeds from 1000."""
    page: Path = Path("docs/fine_tuning.md")
    """The page that shows the table."""
    report: bool = False
    """Only write the table of what is there."""


def distilled(options: Options, env: str, backbone: str) -> Path:
    """The file of distilled students, which are made where they are not there yet."""
    seeds = "-".join(map(str, options.seeds))
    file, protocol = (
        options.work / f"{env}_{backbone}_{options.protocol}_{seeds}.safetensors",
        PROTOCOLS[options.protocol],
    )
    if not file.exists():
        teacher = options.teachers / TASKS[env]
        if not teacher.exists():
            raise PolicyKDError(f"teachers: there is no {teacher}; say where the zoo's agents are with --teachers")
        options.work.mkdir(parents=True, exist_ok=True)
        config = {**protocol.settings, "eval_freq": 0}
        agent = TeacherStudent(env, teacher, backbone=backbone, seeds=options.seeds, config=config, compile=False)
        agent.learn(protocol.distill_steps[env]).save(file, include_replay=True)
    return file


def measure_untuned(options: Options, measured: Measurements, env: str, backbone: str) -> None:
    """The students as they were, at the initial states of every evaluation to come."""
    protocol = PROTOCOLS[options.protocol]
    agent = TeacherStudent.load(distilled(options, env, backbone))
    rows = []
    for steps in range(protocol.eval_freq, protocol.tune_steps + 1, protocol.eval_freq):
        # The initial states of an evaluation depend on it.
        agent.run.num_timesteps = protocol.distill_steps[env] + steps
        rows += rows_of(options, agent, (env, backbone, AS_IT_WAS), steps, agent.evaluate(), 0.0)
    measured.add(*rows)


def tuned(options: Options, measured: Measurements, env: str, backbone: str, way: str) -> None:
    """One way of going on, of all seeds at once."""
    protocol = PROTOCOLS[options.protocol]
    agent = TeacherStudent.load(distilled(options, env, backbone), teacher=options.teachers / TASKS[env])
    begun, at = time.process_time(), len(agent.evaluations)
    config = {"eval_freq": protocol.eval_freq, "critic_steps": protocol.critic_steps, **WAYS[way]}
    agent.fine_tune(protocol.tune_steps, config=config)
    seconds = time.process_time() - begun
    rows = []
    for steps, evaluation in zip(agent.evaluation_steps[at:], agent.evaluations[at:], strict=True):
        since = steps - protocol.distill_steps[env]
        rows += rows_of(options, agent, (env, backbone, way), since, evaluation, seconds)
    measured.add(*rows)


def rows_of(
    options: Options,
    agent: TeacherStudent,
    cell: tuple[str, str, str],
    steps: int,
    evaluation: Evaluation,
    seconds: float,
) -> list[dict[str, Any]]:
    """The rows of one evaluation, one per seed."""
    assert agent.score is not None
    which = dict(zip(KEYS, (options.protocol, *cell), strict=False))
    scores = {"teacher": agent.score.mean, "random": agent.score.random_mean, "seconds": round(seconds, 1)}
    returns = evaluation.returns.mean(1)
    say(f"{' '.join(cell)} {steps:,}: {returns.round(1)}")
    rows = zip(options.seeds, returns, strict=True)
    return [{**which, "seed": seed, "steps": steps, "return": float(mean), **scores} for seed, mean in rows]


def main(options: Options) -> None:
    check_names("tasks", options.tasks, TASKS)
    check_names("backbones", options.backbones, {"td3": TD3, "sac": SAC})
    check_names("ways", options.ways, WAYS)
    measured = Measurements(options.out / "rows.csv", KEYS, VALUES)
    for env in () if options.report else options.tasks:
        for backbone in options.backbones:
            for way in (AS_IT_WAS, *options.ways):
                cell = {"protocol": options.protocol, "env": env, "backbone": backbone, "way": way}
                if not (seeds := measured.missing(options.seeds, **cell)):
                    continue
                if way == AS_IT_WAS:
                    measure_untuned(replace(options, seeds=seeds), measured, env, backbone)
                else:
                    tuned(replace(options, seeds=seeds), measured, env, backbone, way)
                write(measured, options.out, options.page)
    write(measured, options.out, options.page)


if __name__ == "__main__":
    guarded(lambda: main(tyro.cli(Options, description=__doc__)))
