"""``policykd fidelity``: how like its teacher the student of a finished run is."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro
from torch import nn

from policykd import checkpoint
from policykd.agents.run_folder import CHECKPOINT
from policykd.classification.data import load
from policykd.classification.fidelity import as_table, report
from policykd.classification.models import make_model
from policykd.classification.snapshot import load_weights
from policykd.cli.classify import OPTIONS, read_teacher
from policykd.cli.output import say
from policykd.errors import PolicyKDError


@dataclass(frozen=True)
class FidelityOptions:
    """Compare the student of a run of ``policykd classify`` with its teacher: table and picture."""

    run: tyro.conf.Positional[Path]
    """Folder of the run."""
    control: Path | None = None
    """A run of the same settings and another --seed: how like this teacher is a student of another one?"""
    student_features: tuple[str, ...] = ()
    """Modules of the student for CKA; none compares the logits."""
    teacher_features: tuple[str, ...] = ()
    """Modules of the teacher to compare them with."""
    out: Path | None = None
    """Folder of table and picture. Default: the run's."""


def run(arguments: Sequence[str]) -> None:
    """``policykd fidelity``."""
    options = tyro.cli(FidelityOptions, args=list(arguments), prog="policykd fidelity")
    made = _made(options.run)
    splits = load(made["data"], made["data_dir"], examples=made["examples"])
    shape, classes = splits.shape, splits.classes
    teacher = _network(made, "teacher", shape, classes, options.run)
    student = _network(made, "student", shape, classes, options.run)
    control = None
    if options.control is not None:
        _check_recipe(made, _made(options.control), options)
        control = _network(made, "student", shape, classes, options.control)
    out = options.out or options.run
    rows = report(
        student,
        teacher,
        {"train": splits.train, "test": splits.test},
        control=control,
        student_features=options.student_features,
        teacher_features=options.teacher_features,
        out=out,
    )
    say(as_table(rows))
    say(f"table {out / 'fidelity.md'}, picture {out / 'fidelity.png'}")


def _made(folder: Path) -> dict[str, Any]:
    """What a run was asked for."""
    try:
        return json.loads((folder / OPTIONS).read_text())
    except (OSError, ValueError) as error:
        raise PolicyKDError(f"fidelity: {folder} is no run of policykd classify: {error}") from None


def _network(made: dict[str, Any], who: str, shape: tuple[int, ...], classes: int, folder: Path) -> nn.Module:
    """The teacher or the student as the run left it."""

    def new() -> nn.Module:
        return make_model(made[who], made[f"{who}_widths"], shape, classes, seed=0)

    if who == "teacher" and made["teacher_files"]:
        files = [Path(file) for file in made["teacher_files"]]
        return read_teacher([new() for _ in files], files)
    path = folder / who / CHECKPOINT
    if not path.exists():
        raise PolicyKDError(f"fidelity: {folder} has no {who}: its method needs none, or the run has not come so far")
    network = new()
    load_weights(network, checkpoint.load(path)["student"], who)
    return network


def _check_recipe(made: dict[str, Any], other: dict[str, Any], options: FidelityOptions) -> None:
    """Refuse a control that was not made in the same way, or has the same teacher."""

    def recipe(asked: dict[str, Any]) -> dict[str, Any]:
        return {**asked, "teacher_files": len(asked["teacher_files"]), "config": {**asked["config"], "seed": None}}

    def teacher(asked: dict[str, Any]) -> Any:
        return asked["teacher_files"] or asked["config"]["seed"]

    if recipe(made) != recipe(other):
        raise PolicyKDError(f"fidelity: the control {options.control} was made with other settings than {options.run}")
    if teacher(made) == teacher(other):
        raise PolicyKDError(f"fidelity: the control {options.control} has the same teacher: use another --seed")
