"""What ``policykd classify`` and ``policykd text`` share: run folders, teachers, baselines, results."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import nn

from policykd.classification.distiller import Distiller
from policykd.classification.retrieval import with_retrieval
from policykd.cli.output import next_run, say
from policykd.core.fields import change
from policykd.core.files import CHECKPOINT, write_text
from policykd.core.lock import locked
from policykd.distillation.supervised import METHODS
from policykd.distillation.supervised.reaugkd import ReAugKD
from policykd.distillation.supervised.training_config import TrainingConfig
from policykd.training.resume import check_named, command_folder, save_options

RESULT, MEMORY = "result.json", "knowledge_base.safetensors"
COMMON = (
    "batch_size", "optimizer", "learning_rate", "learning_rate_schedule", "weight_decay", "max_grad_norm",
    "mixed_precision",
)  # fmt: skip
"""Settings that the teacher's training shares with the student's."""


def fit_baseline(
    options: Any,
    new_student: Callable[[], nn.Module],
    teacher: nn.Module | None,
    train: Any,
    validation: Any,
    folder: Path,
    names: Sequence[str],
) -> Distiller | None:
    """The same student trained on labels alone for the same epochs; None if not requested, or without a teacher."""
    if not options.baseline or teacher is None or not METHODS[options.method].uses_teacher:
        return None
    config = {name: getattr(options.config, name) for name in (*COMMON, "epochs", "eval_every", "keep_best", "seed")}
    print_once(
        f"training the baseline student on labels alone, {options.config.epochs} epochs (skip it with --no-baseline)"
    )
    distiller = open_distiller(options, new_student(), teacher, folder / "baseline", names, "cross_entropy", config)
    return distiller.fit(train, validation, progress_bar=True)


def measure(
    distiller: Distiller, train: Any, validation: Any, test: Any, folder: Path, baseline: Distiller | None
) -> None:
    """Evaluate the student once on the test data, a retrieving student also with its memory; write the result."""
    results: dict[str, Any] = {"test": distiller.evaluate(test), "validation": distiller.history}
    if baseline is not None:
        results["test_of_labels_alone"] = baseline.evaluate(test)
        print_once("labels alone, test data: " + _listed(results["test_of_labels_alone"]))
    print_once(f"{distiller.method_name}, test data: " + _listed(results["test"]))
    if not distiller.accelerator.is_main_process:
        return
    if isinstance(distiller.method, ReAugKD):
        retrieval = with_retrieval(distiller, train, validation)
        retrieval.memory.save(folder / MEMORY)
        results["lookup"] = retrieval.lookup._asdict()
        results["test_with_retrieval"] = retrieval.evaluate(test, distiller.adaptor)
        print_once(
            f"memory of {len(retrieval.memory):,} examples, {retrieval.memory.nbytes / 1e6:.1f} MB: {folder / MEMORY}"
        )
        print_once(f"with retrieval ({_listed(results['lookup'])}): {_listed(results['test_with_retrieval'])}")
    write_text(folder / RESULT, json.dumps(results, indent=2) + "\n")


def _listed(values: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {value:.4g}" for name, value in values.items())


def _is_main_process() -> bool:
    """Whether this is process 0 of ``accelerate launch``, or the only one."""
    return os.environ.get("RANK", "0") == "0"


def processes() -> int:
    """Number of processes of ``accelerate launch``, which share the batches."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def print_once(text: str) -> None:
    """Print from process 0 only."""
    if _is_main_process():
        say(text)


@contextmanager
def run_folder(options: Any, command: str) -> Iterator[Path]:
    """The folder of a new or resumed run, locked against other processes for the duration of the context."""
    default = next_run(f"{command}_{Path(options.data).stem}_{options.method}")
    if not _is_main_process():  # only the first process writes
        check_named(options.run_dir, options.resume)
        yield options.run_dir or default
        return
    folder = command_folder(options.run_dir, options.resume, default)
    with locked(folder):
        save_options(folder, command, options, "device")
        yield folder


def check(options: Any, student: nn.Module, teacher: nn.Module | None, train: Any, teaches_first: bool) -> None:
    """Check device, features, classes, and the settings of student and teacher before anything is written."""
    if teaches_first:
        change(TrainingConfig(), _teacher_settings(options, options.config.seed))
    Distiller(student, teacher, method=options.method, config=options.config, device=options.device).check(train)


def _teacher_settings(options: Any, seed: int) -> dict[str, Any]:
    settings = {name: getattr(options.config, name) for name in COMMON}
    return settings | {"epochs": options.teacher_epochs, "seed": seed}


def train_teacher(
    options: Any, teacher: nn.Module, train: Any, validation: Any, folder: Path, seed: int, names: Sequence[str]
) -> None:
    """Train a teacher on labels in the run's folder, with the student's training settings."""
    config = _teacher_settings(options, seed)
    distiller = open_distiller(options, teacher, None, folder / "teacher", names, "cross_entropy", config)
    distiller.fit(train, validation, progress_bar=True)


def open_distiller(
    options: Any,
    student: nn.Module,
    teacher: nn.Module | None,
    folder: Path,
    names: Sequence[str],
    method: str | None = None,
    config: Any = None,
) -> Distiller:
    """A distiller that writes into a folder, new or resumed, of the requested method unless another one is given."""
    if options.resume and (folder / CHECKPOINT).exists():
        distiller = Distiller.load(folder, student, teacher, device=options.device)
        print_once(f"resuming {folder.name}, passes done: {distiller.passes}")
        return distiller
    method, config = method or options.method, config or options.config
    if options.resume and _is_main_process():  # killed before its first checkpoint: start anew
        shutil.rmtree(folder, ignore_errors=True)
    return Distiller(
        student, teacher, method=method, config=config, classes=names, device=options.device, run_dir=folder
    )
