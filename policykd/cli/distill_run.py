"""Runs ``policykd distill`` with parsed options."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Any

from policykd.benchmark import students
from policykd.cli.distill import DistillOptions
from policykd.cli.options import widths
from policykd.cli.output import next_run, outcome, say
from policykd.cli.teachers import load_teachers
from policykd.cli.train import settings_type
from policykd.core.errors import PolicyKDError
from policykd.core.fields import change, require
from policykd.core.files import remove_unfinished, write_text
from policykd.core.parsing import parse_json, read_text
from policykd.distillation.teaching_config import taught_config
from policykd.measure.plots import curve_of, learning_curves
from policykd.tasks.saved import rename
from policykd.tasks.spaces import find_task, short_id
from policykd.teachers import Teacher
from policykd.training import snapshot
from policykd.training.resume import check_named, resuming
from policykd.training.run_folder import CONFIG, check_free
from policykd.training.teacher_checks import check_tunable
from policykd.training.teacher_student import TeacherStudent


def run(options: DistillOptions[Any]) -> None:
    """Start or resume a run: train students of every size, evaluate and plot them."""
    require(options.total_timesteps > 0, "total_timesteps", options.total_timesteps, "must be positive")
    require(options.fine_tune >= 0, "fine_tune", options.fine_tune, "must not be negative")
    require(options.final_episodes > 0, "final_episodes", options.final_episodes, "must be positive")
    if not options.teacher:
        raise PolicyKDError("teacher: missing: name it with --teacher FILE")
    sizes = [widths(text) for text in options.student] or [options.config.net_arch]
    if len(set(sizes)) < len(sizes):
        raise PolicyKDError(f"student: a size occurs twice in {' '.join(options.student)}")
    check_named(options.run_dir, options.resume)
    env = find_task(options.env).env_id
    folder = options.run_dir or next_run(f"{short_id(options.env)}_{options.method}-{options.backbone}")
    parts = [folder / "x".join(map(str, size)) if len(sizes) > 1 else folder for size in sizes]
    if not (options.resume and any(part.exists() for part in parts)):
        check_free(folder)  # before loading and scoring the teacher
    seen = options.config.teacher_observations
    teachers = load_teachers(options.teacher, env, seen, options.vecnormalize, options.trust)
    rows: list[students.Row] = []
    for size, part in zip(sizes, parts, strict=True):
        agent = _train(options, env, teachers, size, part)
        rows += students.measure(agent, episodes=options.final_episodes)
        remove_unfinished(folder)
        students.write_csv(rows, folder / "students.csv")  # after each size: an interrupted sweep keeps its rows
        write_text(folder / "students.md", students.table(rows) + "\n")
    say("\n" + students.table(rows))
    say(f"table {folder / 'students.md'}, raw numbers {folder / 'students.csv'}")
    if len(sizes) > 1:
        title = f"{short_id(env)}: {options.method}, return against size"
        say(f"picture {students.picture(rows, folder / 'students.png', title)}")


def _train(
    options: DistillOptions[Any], env: str, teachers: list[Teacher], size: tuple[int, ...], folder: Path
) -> TeacherStudent:
    """Train students of one size to the end."""
    config = change(options.config, {"net_arch": size})
    asked: dict[str, Any] = {"env": env, "method": options.method, "backbone": options.backbone}
    asked |= {"seeds": list(options.seeds), "config": snapshot.plain(config)}
    asked["teacher"] = " + ".join(teacher.source for teacher in teachers)
    with resuming(folder, asked) if options.resume else nullcontext() as saved:
        if saved:
            agent = TeacherStudent.load(saved, device=options.device, teacher=teachers)
            snapshot.check_same(_initial_settings(folder), asked)
            _check_steps(agent, options)
            agent.threads = options.threads
            say(f"resuming from {agent.num_timesteps:,} steps")
        else:
            agent = _begin(options, env, teachers, config, folder)
        _learn(agent, options, env, size, folder)
    return agent


def _initial_settings(folder: Path) -> dict[str, Any]:
    """The settings at the start of distillation: the agent's own change with fine-tuning or another teacher.

    Raises:
        PolicyKDError: the run's config.json cannot be read.
    """
    try:
        saved = parse_json(read_text(folder / CONFIG))
        rename(saved["config"])
        name = saved["backbone"]
        config = change(taught_config(name, settings_type(name))(), saved["config"])  # adds settings newer than the run
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise PolicyKDError(f"resume: cannot read {folder / CONFIG}: {error}: restore it") from None
    return {**saved, "config": snapshot.plain(config)}


def _check_steps(agent: TeacherStudent, options: DistillOptions[Any]) -> None:
    """Refuse more steps of distillation once fine-tuning has started.

    Raises:
        PolicyKDError: names both numbers.
    """
    if agent.tuning is not None and options.total_timesteps > agent.tuning.start:
        raise PolicyKDError(
            f"resume: fine-tuning began after {agent.tuning.start:,} steps: --total-timesteps "
            f"{options.total_timesteps} is too late; set more steps with --fine-tune"
        )


def _begin(
    options: DistillOptions[Any], env: str, teachers: list[Teacher], config: Any, folder: Path
) -> TeacherStudent:
    agent = TeacherStudent(
        env,
        teachers,
        method=options.method,
        backbone=options.backbone,
        seeds=options.seeds,
        config=config,
        device=options.device,
        compile="auto" if options.compile == "auto" else options.compile == "yes",
        threads=options.threads,
    )
    if options.fine_tune > 0:
        check_tunable(config, agent.learner_type, agent.panel, agent.learner.discrete)
    agent.score_teacher()  # refuses a teacher no better than random before anything is written
    agent.write_into(folder)
    return agent


def _learn(agent: TeacherStudent, options: DistillOptions[Any], env: str, size: tuple[int, ...], folder: Path) -> None:
    """Distil, fine-tune if requested, and plot the results."""
    say(f"policykd distill: {options.method}, {env}, students {'x'.join(map(str, size))} on {options.backbone}")
    say(f"{agent.n_learners} students on {agent.device}; {agent.memory}; computed by {agent.computed_by}")
    say(f"run folder {folder}   (live: tensorboard --logdir {folder})")
    say(str(agent.score_teacher()))
    if agent.method_name != "fine_tune":
        agent.learn(max(0, options.total_timesteps - agent.num_timesteps), progress_bar=True)
        say(outcome(agent))
    left = options.fine_tune - agent.fine_tuned_steps
    if agent.method_name == "fine_tune" and left > 0:
        agent.learn(left, progress_bar=True)
        agent.warn_of_unchanged()
    elif options.fine_tune > 0 and agent.method_name != "fine_tune":
        say("fine-tuning with the task's own reward")
        agent.fine_tune(options.fine_tune, progress_bar=True)
    if options.fine_tune > 0:
        say(outcome(agent))
    if not agent.evaluations:
        return
    done = agent.evaluation_steps, agent.evaluations
    curves = [curve_of(f"seed {seed}", k, *done) for k, seed in enumerate(agent.seeds)]
    score = agent.score_teacher()
    picture = learning_curves(
        curves,
        folder / "learning_curves.png",
        title=f"{agent.env_id}: {options.method}",
        threshold=None if score is None else score.mean,
        mark="teacher",
        xlabel="environment steps of a student",
    )
    say(f"picture {picture}")
