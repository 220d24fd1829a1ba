"""Runs ``policykd classify`` with parsed options."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import nn

from policykd.classification.data.sets import Splits, load
from policykd.classification.models import (
    CNN,
    CONFIG,
    MLP,
    check_names,
    load_weights,
    make_model,
    names_in,
    parameters,
    save_pretrained,
)
from policykd.classification.processes import check_device
from policykd.classification.settings import resolve_config
from policykd.classification.teacher import Ensemble
from policykd.cli.classify import ClassifyOptions
from policykd.cli.distillers import (
    check,
    fit_baseline,
    measure,
    open_distiller,
    print_once,
    run_folder,
    train_teacher,
)
from policykd.core.checkpoint import read_weights
from policykd.core.errors import PolicyKDError
from policykd.core.fields import require
from policykd.core.parsing import parse_json, read_text
from policykd.distillation.supervised import METHODS
from policykd.distillation.supervised.training_config import FeaturePaths


def run(options: ClassifyOptions[Any]) -> None:
    """Train the student, and its teacher if none is given, or resume a run; evaluate the student once."""
    resolve_config(METHODS[options.method], options.config)  # before data and networks are read
    if isinstance(options.config, FeaturePaths) and not all(options.config.feature_paths):
        raise PolicyKDError(
            f"features: {options.method} compares modules: name them, for example --student-features hidden.0.0 "
            "--teacher-features hidden.1"
        )
    require(options.teacher_epochs > 0, "teacher_epochs", options.teacher_epochs, "must be positive")
    check_device(options.device)
    splits = load(options.data, options.data_dir, examples=options.examples)
    teacher = _given_teacher(options, splits)

    def new_student() -> nn.Module:
        return make_model(options.student, options.student_widths, splits.shape, splits.classes, options.config.seed)

    untrained = teacher is None and METHODS[options.method].uses_teacher
    if untrained:
        teacher = _new_teacher(options, splits)
    # After all other checks: a run that cannot start leaves nothing behind.
    check(options, new_student(), teacher, splits.train, untrained)
    with run_folder(options, "classify") as folder:
        _train(options, splits, new_student, teacher, untrained, folder)


def _train(
    options: ClassifyOptions[Any],
    splits: Splits,
    new_student: Callable[[], nn.Module],
    teacher: nn.Module | None,
    untrained: bool,
    folder: Path,
) -> None:
    """Train and evaluate teacher, student and baseline in the run's folder."""
    if untrained and teacher is not None:
        print_once(f"training the teacher, {options.teacher_epochs} epochs")
        train_teacher(options, teacher, splits.train, splits.validation, folder, _teacher_seed(options), splits.names)
    student = new_student()
    print_once(
        f"policykd classify: {options.method} on {options.data}, {len(splits.train.labels):,} training examples; "
        f"student {parameters(student):,} parameters"
        + ("" if teacher is None else f", teacher {parameters(teacher):,}")
    )
    print_once(f"run folder {folder}   (live: tensorboard --logdir {folder})")
    distiller = open_distiller(options, student, teacher, folder / "student", splits.names)
    distiller.fit(splits.train, splits.validation, progress_bar=True)
    data = splits.train, splits.validation, splits.test
    measure(distiller, *data, folder, fit_baseline(options, new_student, teacher, *data[:2], folder, splits.names))
    for network, name in ((student, "student_model"), (teacher, "teacher_model")):
        if distiller.accelerator.is_main_process and isinstance(network, MLP | CNN):
            save_pretrained(network, folder / name, splits.names)


def _given_teacher(options: ClassifyOptions[Any], splits: Splits) -> nn.Module | None:
    """The teacher from its files, an ensemble if there are several; None without files."""
    files = options.teacher_files
    return read_teacher([_new_teacher(options, splits) for _ in files], files, splits.names) if files else None


def read_teacher(members: list[nn.Module], files: Sequence[Path], names: Sequence[str] | None = None) -> nn.Module:
    """Load weights into one network per file; several form an ensemble.

    Raises:
        PolicyKDError: a file cannot be read, or its class names differ from ``names`` or are in another order.
    """
    for member, path in zip(members, files, strict=True):
        try:
            load_weights(member, read_weights(path), f"teacher of {path}")
            known = _saved_class_names(path)
        except (OSError, ValueError, AttributeError, SafetensorError) as error:
            raise PolicyKDError(f"teacher: cannot read {path}: {error}") from None
        if names is not None and known is not None:
            check_names({f"the teacher of {path}": known, "the data": names})
    return Ensemble(members) if len(members) > 1 else members[0]


def _saved_class_names(path: str | Path) -> Sequence[str] | None:
    """The class names of a weights file: in the file, as runs save them, or in the ``config.json`` beside it."""
    with safe_open(path, "pt") as file:
        known = parse_json((file.metadata() or {}).get("classes", "null"))
    if not isinstance(known, list | None):
        raise ValueError("its class names are not a list")
    beside = Path(path).parent / CONFIG
    return names_in(parse_json(read_text(beside))) if known is None and beside.is_file() else known


def _new_teacher(options: ClassifyOptions[Any], splits: Splits) -> nn.Module:
    return make_model(options.teacher, options.teacher_widths, splits.shape, splits.classes, _teacher_seed(options))


def _teacher_seed(options: ClassifyOptions[Any]) -> int:
    """A seed at a fixed offset from the student's."""
    return options.config.seed + 1000
