"""``policykd classify``: distil a classifier into a smaller one."""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Generic, Literal, TypeVar

import safetensors.torch
import tyro
from safetensors import SafetensorError
from torch import nn

from policykd.agents.run_folder import CHECKPOINT, write_text
from policykd.classification.data import Splits, load
from policykd.classification.distiller import Distiller
from policykd.classification.models import make_model, parameters
from policykd.classification.snapshot import load_weights
from policykd.cli.output import say
from policykd.distillation.supervised import METHODS
from policykd.errors import PolicyKDError, nearest

C = TypeVar("C")
OPTIONS, RESULT = "options.json", "result.json"


@dataclass(frozen=True)
class ClassifyOptions(Generic[C]):
    """Distil a classifier into a smaller one, and measure it once on the test data."""

    data: str = "digits"
    """digits, mnist, fashion-mnist, cifar10, cifar100, a .npz file, or a folder of train/CLASS and test/CLASS."""
    data_dir: Path | None = None
    """Folder of the data's files. Default: the environment variable POLICYKD_DATA."""
    examples: int | None = None
    """Training examples to use; default: all. A tenth of them is for validation."""
    method: str = "hinton"
    """How the student learns (a name of the methods table)."""
    student: Literal["mlp", "cnn"] = "mlp"
    """Kind of the student."""
    student_widths: tuple[int, ...] = (16,)
    """Its hidden layers; for a cnn the channels of every block, then the hidden layer."""
    teacher: Literal["mlp", "cnn"] = "mlp"
    """Kind of the teacher."""
    teacher_widths: tuple[int, ...] = (256, 256)
    """Its hidden layers."""
    teacher_file: Path | None = None
    """Weights of a trained teacher, the best_model.safetensors of a run; default: train one from labels first."""
    teacher_epochs: int = 20
    """Passes over the training data for such a teacher."""
    run_dir: Path | None = None
    """New folder for teacher, student and result. Default: the next free one under runs/."""
    resume: bool = False
    """Go on with the run in --run-dir from its last checkpoint, bit by bit."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to compute."""
    config: Annotated[C, tyro.conf.OmitArgPrefixes] = field(default_factory=dict)  # type: ignore[assignment]
    """Settings of the method and of training."""


def run(arguments: Sequence[str]) -> None:
    """``policykd classify``."""
    options = _options(arguments)
    splits = load(options.data, options.data_dir, examples=options.examples)
    folder = _folder(options)
    teacher = _teacher(options, splits, folder)
    student = make_model(options.student, options.student_widths, splits.shape, splits.classes, options.config.seed)
    say(
        f"policykd classify: {options.method} on {options.data}, {len(splits.train.labels):,} training examples; "
        f"student {parameters(student):,} parameters"
        + ("" if teacher is None else f", teacher {parameters(teacher):,}")
    )
    say(f"run folder {folder}   (live: tensorboard --logdir {folder})")
    distiller = _distiller(options, student, teacher, folder / "student", options.method, options.config)
    distiller.fit(splits.train, splits.validation, progress_bar=True)
    result = distiller.evaluate(splits.test)
    write_text(folder / RESULT, json.dumps({"test": result, "validation": distiller.history}, indent=2) + "\n")
    say("test data: " + ", ".join(f"{name} {value:.4f}" for name, value in result.items()))


def _options(arguments: Sequence[str]) -> ClassifyOptions[Any]:
    """Options with the settings of the method that is asked for."""
    first = argparse.ArgumentParser(prog="policykd classify", add_help=False, allow_abbrev=False)
    first.add_argument("--method", default="hinton")
    method = first.parse_known_args(list(arguments))[0].method
    if method not in METHODS:
        raise PolicyKDError(f"method: {method!r} is unknown{nearest(method, METHODS)}; there are {', '.join(METHODS)}")
    kind = METHODS[method].config_type
    start = ClassifyOptions[Any](method=method, config=kind())
    return tyro.cli(
        ClassifyOptions[kind],  # type: ignore[valid-type]
        args=list(arguments),
        default=start,
        prog="policykd classify",
        description=ClassifyOptions.__doc__,
    )


def _folder(options: ClassifyOptions[Any]) -> Path:
    """The run's folder, new, or the one to go on with."""
    asked = {**dataclasses.asdict(options), "run_dir": None, "resume": None, "device": None}
    text = json.dumps(asked, indent=2, default=str) + "\n"
    if not options.resume:
        folder = options.run_dir or _next_run(options)
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise PolicyKDError(f"run folder: {folder} is not empty: choose another one, or go on with --resume")
        folder.mkdir(parents=True, exist_ok=True)
        write_text(folder / OPTIONS, text)
        return folder
    if options.run_dir is None:
        raise PolicyKDError("resume: say which run with --run-dir")
    try:
        saved = json.loads((options.run_dir / OPTIONS).read_text())
    except (OSError, ValueError) as error:
        raise PolicyKDError(f"resume: {options.run_dir} is no run of policykd classify: {error}") from None
    now = json.loads(text)
    changed = [
        f"{name} was {saved.get(name)!r}, now {value!r}" for name, value in now.items() if saved.get(name) != value
    ]
    if changed:
        raise PolicyKDError(f"resume: the run was made with other settings: {'; '.join(changed)}")
    return options.run_dir


def _next_run(options: ClassifyOptions[Any]) -> Path:
    name, number = f"classify_{Path(options.data).stem}_{options.method}", 1
    while (folder := Path("runs") / f"{name}_{number}").exists():
        number += 1
    return folder


def _teacher(options: ClassifyOptions[Any], splits: Splits, folder: Path) -> nn.Module | None:
    """The teacher: from a file, or trained in the run's folder; none for a method that needs none."""
    seed = options.config.seed + 1000
    teacher = make_model(options.teacher, options.teacher_widths, splits.shape, splits.classes, seed)
    if options.teacher_file is not None:
        read_teacher(teacher, options.teacher_file)
        return teacher
    if not METHODS[options.method].uses_teacher:
        return None
    say(f"training the teacher, {options.teacher_epochs} passes")
    common = ("batch_size", "optimizer", "learning_rate", "learning_rate_schedule", "weight_decay")
    config = {name: getattr(options.config, name) for name in common}
    config |= {"epochs": options.teacher_epochs, "seed": seed}
    distiller = _distiller(options, teacher, None, folder / "teacher", "cross_entropy", config)
    distiller.fit(splits.train, splits.validation, progress_bar=True)
    return teacher


def read_teacher(teacher: nn.Module, file: Path) -> None:
    """Load a teacher's weights from a safetensors file."""
    try:
        load_weights(teacher, safetensors.torch.load_file(file), "teacher")
    except (OSError, SafetensorError) as error:
        raise PolicyKDError(f"teacher: cannot read {file}: {error}") from None


def _distiller(
    options: ClassifyOptions[Any], student: nn.Module, teacher: nn.Module | None, folder: Path, method: str, config: Any
) -> Distiller:
    """A distiller that writes into a folder, or the one that did so before."""
    if options.resume and (folder / CHECKPOINT).exists():
        distiller = Distiller.load(folder, student, teacher, device=options.device)
        say(f"going on with {folder.name} after {distiller.passes} passes")
        return distiller
    return Distiller(student, teacher, method=method, config=config, device=options.device, run_dir=folder)
