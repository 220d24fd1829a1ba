"""Runs ``policykd fidelity`` with parsed options."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import nn

from policykd.classification.data.sets import load
from policykd.classification.measures.fidelity import report
from policykd.classification.models import load_weights, make_model
from policykd.cli.classify_run import read_teacher
from policykd.cli.distillers import RESULT
from policykd.cli.fidelity import FidelityOptions
from policykd.cli.output import say
from policykd.cli.teachers import load_teachers
from policykd.core import checkpoint
from policykd.core.errors import PolicyKDError
from policykd.core.fields import require
from policykd.core.files import CHECKPOINT, OPTIONS, blocking_file
from policykd.core.parsing import parse_json, read_text
from policykd.measure import peers
from policykd.measure.fidelity import report as policy_report
from policykd.measure.fidelity_report import Row, as_table
from policykd.training.dual_student import DualStudent
from policykd.training.loading import load_agent
from policykd.training.offline import SAME
from policykd.training.snapshot import changes
from policykd.training.teacher_student import TeacherStudent

log = logging.getLogger("policykd")
ASKED = {"data", "data_dir", "examples", "student", "student_widths", "teacher", "teacher_widths", "teacher_files"}
"""Options of ``policykd classify`` that define its networks."""

POLICY_OPTIONS = "env", "teacher", "vecnormalize", "trust", "learner", "tolerance", "steps"
"""Options that do not apply to classifiers."""


def run(options: FidelityOptions) -> None:
    """Compare the run's networks, and write table and plot."""
    if options.out is None and options.run.is_file():
        raise PolicyKDError(f"fidelity: {options.run} is a file: name a folder for table and picture with --out")
    out = options.out or options.run
    if (out if out.is_file() else blocking_file(out)) is not None:
        raise PolicyKDError(f"fidelity: {out} cannot be the folder for table and picture: choose another --out")
    rows = _classifier(options, out) if (options.run / OPTIONS).exists() else _policy(options, out)
    say(as_table(rows))
    say(f"table {out / 'fidelity.md'}, picture {out / 'fidelity.png'}")


def _refuse(options: FidelityOptions, names: Sequence[str], what: str) -> None:
    """Refuse options that do not apply to this kind of run."""
    default = FidelityOptions(options.run)
    if given := [name for name in names if getattr(options, name) != getattr(default, name)]:
        raise PolicyKDError(f"fidelity: {options.run} is a run of {what}: leave out --{given[0].replace('_', '-')}")


def _policy(options: FidelityOptions, out: Path) -> list[Row]:
    """The report of a student policy."""
    require(options.steps > 0, "steps", options.steps, "must be positive")
    require(options.tolerance >= 0, "tolerance", options.tolerance, "must not be negative")
    if options.student_features or options.teacher_features:
        raise PolicyKDError("fidelity: student_features and teacher_features are for runs of policykd classify")
    agent = _load_acting_agent(options.run, options.env)
    if isinstance(agent, DualStudent):
        return _peers(options, agent, out)
    teachers = options.teacher or tuple(agent.teacher_source.split(" + "))
    for source in teachers:
        if not Path(source).exists():
            raise PolicyKDError(f"fidelity: the run's teacher, {source}, was not found: name it with --teacher")
    part = agent.teaching.teacher_observations
    loaded = load_teachers(teachers, agent.env_id, part, options.vecnormalize, options.trust)
    taught = TeacherStudent.load(options.run, options.env, teacher=loaded)
    control = None if options.control is None else _control(options.control, options, agent)
    if (gap := taught.label_mismatch() or 0.0) > SAME:
        log.warning(
            "fidelity: the teacher's action differs at %.0f %% of the states that the run learnt from: it may be "
            "the wrong teacher (--teacher), or lack its statistics (--vecnormalize)",
            100 * gap,
        )
    return policy_report(
        taught,
        taught.learner_index(options.learner),
        control=control,
        steps=options.steps,
        tolerance=options.tolerance,
        out=out,
    )


def _control(folder: Path, options: FidelityOptions, agent: TeacherStudent) -> TeacherStudent:
    """Load the control: students of another teacher, trained with the same settings."""
    control = _load_acting_agent(folder, options.env)
    if not isinstance(control, TeacherStudent):
        raise PolicyKDError(f"fidelity: the control {folder} is a run of peers, which have no teacher")
    if control.teacher_source == agent.teacher_source:
        raise PolicyKDError(f"fidelity: the control {folder} has the same teacher")
    if changed := changes(agent.settings, control.settings, "teacher", "seeds"):
        raise PolicyKDError(
            f"fidelity: the control {folder} was made with other settings than {options.run}: {changed}"
        )
    return control


def _peers(options: FidelityOptions, agent: DualStudent, out: Path) -> list[Row]:
    """The report of peers, and how their distance developed in training."""
    without = "peers, which have no teacher and are all compared"
    _refuse(options, ("teacher", "vecnormalize", "trust", "learner"), without)
    control = None if options.control is None else _load_acting_agent(options.control, options.env)
    if control is not None and not (isinstance(control, DualStudent) and control.method.source is None):
        raise PolicyKDError(f"fidelity: the control {options.control} is not a run of independent peers")
    runs = {"peers": options.run} | ({} if options.control is None else {"control": options.control})
    logged = peers.logged(runs)  # what cannot be read ends here, before anything is written
    found = peers.report(agent, control=control, steps=options.steps, tolerance=options.tolerance, out=out)
    if peers.over_training(logged, out / "fidelity_over_training.png"):
        say(f"picture {out / 'fidelity_over_training.png'}: over training")
    return found


def _load_acting_agent(folder: Path, env: str | None) -> DualStudent | TeacherStudent:
    """The agent of a run of ``policykd train`` or ``distill``, without its teacher."""
    if not (folder.is_file() or (folder / CHECKPOINT).exists()):
        raise PolicyKDError(f"fidelity: {folder} is not a run of policykd train, classify or distill")
    agent = load_agent(folder, env)
    assert isinstance(agent, DualStudent | TeacherStudent)
    return agent


def _classifier(options: FidelityOptions, out: Path) -> list[Row]:
    """The report of a student classifier."""
    made = _run_options(options.run)
    _refuse(options, POLICY_OPTIONS, "policykd classify")
    splits = load(made["data"], made["data_dir"], examples=made["examples"])
    shape, classes = splits.shape, splits.classes
    teacher = _network(made, "teacher", shape, classes, options.run)
    student = _network(made, "student", shape, classes, options.run)
    control = None
    if options.control is not None:
        _check_recipe(made, _run_options(options.control), options)
        control = _network(made, "student", shape, classes, options.control)
    return report(
        student,
        teacher,
        {"train": splits.train, "test": splits.test},
        control=control,
        student_features=options.student_features,
        teacher_features=options.teacher_features,
        out=out,
    )


def _run_options(folder: Path) -> dict[str, Any]:
    """The options a run was started with."""
    try:
        made = parse_json(read_text(folder / OPTIONS))
    except (OSError, ValueError) as error:
        raise PolicyKDError(f"fidelity: {folder} is not a run of policykd classify: {error}") from None
    if not (isinstance(made, dict) and made.keys() >= ASKED):  # text and cooperate write options, too
        raise PolicyKDError(
            f"fidelity: {folder} is not a run of policykd train, classify or distill, but of another kind"
        )
    return made


def _network(made: dict[str, Any], who: str, shape: tuple[int, ...], classes: int, folder: Path) -> nn.Module:
    """The trained teacher or student of the run."""

    def new() -> nn.Module:
        return make_model(made[who], made[f"{who}_widths"], shape, classes, seed=0)

    if who == "teacher" and made["teacher_files"]:
        files = [Path(file) for file in made["teacher_files"]]
        return read_teacher([new() for _ in files], files)
    path = folder / who / CHECKPOINT
    if not path.exists():
        raise PolicyKDError(
            f"fidelity: {folder} has no {who}: its method needs none, or the run has not reached it yet"
        )
    if not (folder / RESULT).exists():
        resume = f"policykd classify --resume --run-dir {folder}, with its other options"
        raise PolicyKDError(f"fidelity: {folder} is not finished: resume with {resume}")
    network = new()
    load_weights(network, checkpoint.load(path)["student"], who)
    return network


def _check_recipe(made: dict[str, Any], other: dict[str, Any], options: FidelityOptions) -> None:
    """Refuse a control that has other settings, or the same teacher."""

    def recipe(asked: dict[str, Any]) -> dict[str, Any]:
        return {**asked, "teacher_files": len(asked["teacher_files"])}

    def teacher(asked: dict[str, Any]) -> Any:
        return asked["teacher_files"] or asked["config"]["seed"]

    ours, theirs = recipe(made), recipe(other)
    free = "baseline", "seed"
    if changed := changes(ours, theirs, *free) or changes(theirs, ours, *free):  # either may have one the other lacks
        raise PolicyKDError(
            f"fidelity: the control {options.control} was made with other settings than {options.run}: {changed}"
        )
    if teacher(made) == teacher(other):
        raise PolicyKDError(f"fidelity: the control {options.control} has the same teacher: use another --seed")
