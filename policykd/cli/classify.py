"""``policykd classify``: distil a classifier into a smaller one."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Generic, Literal, TypeVar

import safetensors.torch
import tyro
from safetensors import SafetensorError, safe_open
from torch import nn

from policykd.classification.data.sets import Splits, load
from policykd.classification.distiller import Distiller
from policykd.classification.models import CNN, MLP, check_names, make_model, parameters, save_pretrained
from policykd.classification.processes import check_device
from policykd.classification.retrieval import with_retrieval
from policykd.classification.state import load_weights
from policykd.classification.teacher import Ensemble
from policykd.cli.options import parse, peek
from policykd.cli.output import say
from policykd.core.errors import PolicyKDError
from policykd.core.fields import change, require
from policykd.core.files import CHECKPOINT, remove_unfinished, write_text
from policykd.core.lock import alone
from policykd.distillation.supervised import METHODS, find_method
from policykd.distillation.supervised.feature_maps import FeaturePaths
from policykd.distillation.supervised.method import TrainingConfig
from policykd.distillation.supervised.reaugkd import ReAugKD
from policykd.training.begin import OPTIONS, check_options
from policykd.training.run_folder import holds_nothing

C = TypeVar("C")
COMMON = (
    "batch_size", "optimizer", "learning_rate", "learning_rate_schedule", "weight_decay", "max_grad_norm",
    "mixed_precision",
)  # fmt: skip
"""Settings that a teacher's training takes from the student's."""
RESULT, MEMORY = "result.json", "knowledge_base.safetensors"


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
    teacher_files: tuple[Path, ...] = ()
    """Weights of trained teachers, the best_model.safetensors of runs; several are an ensemble. Default: train one
    from labels first."""
    teacher_epochs: int = 20
    """Epochs of such a teacher."""
    baseline: bool = True
    """Also train the same student from labels alone, from the same first weights, and print both."""
    run_dir: Path | None = None
    """New folder for teacher, student and result. Default: the next free one under runs/."""
    resume: bool = False
    """Go on with the run in --run-dir from its last checkpoint, bit by bit; it begins where there is none yet."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to compute."""
    config: Annotated[C, tyro.conf.OmitArgPrefixes] = field(default_factory=dict)  # type: ignore[assignment]
    """Settings of the method and of training."""


def run(arguments: Sequence[str]) -> None:
    """``policykd classify``."""
    options = _options(arguments)
    if isinstance(options.config, FeaturePaths) and not all(options.config.feature_paths):
        raise PolicyKDError(
            f"features: {options.method} compares modules: name them, such as --student-features hidden.0.0 "
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
    # After all that may be wrong: a run that cannot start leaves nothing behind.
    check(options, new_student(), teacher, splits.train, untrained)
    with run_folder(options, "classify") as folder:
        _run(options, splits, new_student, teacher, untrained, folder)


def _run(
    options: ClassifyOptions[Any],
    splits: Splits,
    new_student: Callable[[], nn.Module],
    teacher: nn.Module | None,
    untrained: bool,
    folder: Path,
) -> None:
    """Train and measure everything of a run in its folder."""
    if untrained and teacher is not None:
        tell(f"training the teacher, {options.teacher_epochs} epochs")
        train_teacher(options, teacher, splits.train, splits.validation, folder, _teacher_seed(options), splits.names)
    student = new_student()
    tell(
        f"policykd classify: {options.method} on {options.data}, {len(splits.train.labels):,} training examples; "
        f"student {parameters(student):,} parameters"
        + ("" if teacher is None else f", teacher {parameters(teacher):,}")
    )
    tell(f"run folder {folder}   (live: tensorboard --logdir {folder})")
    distiller = open_distiller(options, student, teacher, folder / "student", splits.names)
    distiller.fit(splits.train, splits.validation, progress_bar=True)
    data = splits.train, splits.validation, splits.test
    measure(distiller, *data, folder, fit_baseline(options, new_student, teacher, *data[:2], folder, splits.names))
    for network, name in ((student, "student_model"), (teacher, "teacher_model")):
        if distiller.accelerator.is_main_process and isinstance(network, MLP | CNN):
            save_pretrained(network, folder / name, splits.names)


def fit_baseline(
    options: Any,
    new_student: Callable[[], nn.Module],
    teacher: nn.Module | None,
    train: Any,
    validation: Any,
    folder: Path,
    names: Sequence[str],
) -> Distiller | None:
    """The same student after the same epochs from labels alone; None where it was not asked for, or nothing teaches."""
    if not options.baseline or teacher is None or not METHODS[options.method].uses_teacher:
        return None
    config = {name: getattr(options.config, name) for name in (*COMMON, "epochs", "eval_every", "keep_best", "seed")}
    tell(f"training the student from labels alone, {options.config.epochs} epochs (--no-baseline leaves it out)")
    distiller = open_distiller(options, new_student(), teacher, folder / "baseline", names, "cross_entropy", config)
    return distiller.fit(train, validation, progress_bar=True)


def measure(
    distiller: Distiller, train: Any, validation: Any, test: Any, folder: Path, baseline: Distiller | None
) -> None:
    """Measure the student once on the test data, a student that retrieves also with its memory; write the result."""
    results: dict[str, Any] = {"test": distiller.evaluate(test), "validation": distiller.history}
    if baseline is not None:
        results["test_of_labels_alone"] = baseline.evaluate(test)
        tell("from labels alone, test data: " + _listed(results["test_of_labels_alone"]))
    tell(f"{distiller.method_name}, test data: " + _listed(results["test"]))
    if not distiller.accelerator.is_main_process:
        return
    if isinstance(distiller.method, ReAugKD):
        retrieval = with_retrieval(distiller, train, validation)
        retrieval.memory.save(folder / MEMORY)
        results["lookup"] = retrieval.lookup._asdict()
        results["test_with_retrieval"] = retrieval.evaluate(test, distiller.adaptor)
        tell(f"memory of {len(retrieval.memory):,} examples, {retrieval.memory.nbytes / 1e6:.1f} MB: {folder / MEMORY}")
        tell(f"with retrieval ({_listed(results['lookup'])}): {_listed(results['test_with_retrieval'])}")
    write_text(folder / RESULT, json.dumps(results, indent=2) + "\n")


def _listed(values: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {value:.4g}" for name, value in values.items())


def _is_first() -> bool:
    """Whether this is the first or only process, as ``accelerate launch`` numbers them."""
    return os.environ.get("RANK", "0") == "0"


def tell(text: str) -> None:
    """Print from one process."""
    if _is_first():
        say(text)


def _options(arguments: Sequence[str]) -> ClassifyOptions[Any]:
    """Options with the settings of the method that is asked for."""
    method, kind = asked_method(arguments, "hinton")
    start = ClassifyOptions[Any](method=method, config=kind(epochs=30, batch_size=64, learning_rate=5e-3))
    return parse(ClassifyOptions[kind], arguments, "classify", start)  # type: ignore[valid-type]


def asked_method(arguments: Sequence[str], default: str) -> tuple[str, type[TrainingConfig]]:
    """The method that a command line names, and its settings, which the other options are.

    Raises:
        PolicyKDError: there is no such method.
    """
    name, kind = find_method(peek(arguments, "method")["method"] or default)
    return name, kind.config_type


@contextmanager
def run_folder(options: Any, command: str) -> Iterator[Path]:
    """The folder of a run of a command, new, or the one to go on with; no other process writes into it meanwhile."""
    if options.resume and options.run_dir is None:
        raise PolicyKDError("resume: say which run with --run-dir")
    folder = options.run_dir or _next_run(options, command)
    if not _is_first():
        yield folder  # only the first process writes
        return
    there = folder.exists()
    if there and not (folder.is_dir() and (options.resume or holds_nothing(folder))):
        raise PolicyKDError(f"run folder: {folder} is not empty: choose another one, or go on with --resume")
    folder.mkdir(parents=True, exist_ok=True)
    with alone(folder):
        asked = {**dataclasses.asdict(options), "run_dir": None, "resume": None, "device": None}
        text = json.dumps(asked, indent=2, default=str) + "\n"
        if holds_nothing(folder):
            write_text(folder / OPTIONS, text)
        else:
            check_options(folder, command, json.loads(text))
        remove_unfinished(folder)
        yield folder


def _next_run(options: Any, command: str) -> Path:
    name, number = f"{command}_{Path(options.data).stem}_{options.method}", 1
    while (folder := Path("runs") / f"{name}_{number}").exists():
        number += 1
    return folder


def _given_teacher(options: ClassifyOptions[Any], splits: Splits) -> nn.Module | None:
    """The teacher from files, an ensemble where there are several; None where there is none."""
    files = options.teacher_files
    return read_teacher([_new_teacher(options, splits) for _ in files], files, splits.names) if files else None


def read_teacher(members: list[nn.Module], files: Sequence[Path], names: Sequence[str] | None = None) -> nn.Module:
    """Load weights into one network per file; several are an ensemble.

    Raises:
        PolicyKDError: a file cannot be read, or its classes have other names than ``names``, or another order.
    """
    for member, path in zip(members, files, strict=True):
        try:
            load_weights(member, safetensors.torch.load_file(path), f"teacher of {path}")
            with safe_open(path, "pt") as file:
                known = json.loads((file.metadata() or {}).get("classes", "null"))
        except (OSError, ValueError, SafetensorError) as error:
            raise PolicyKDError(f"teacher: cannot read {path}: {error}") from None
        if names is not None and known is not None:
            check_names({f"the teacher of {path}": known, "the data": names})
    return Ensemble(members) if len(members) > 1 else members[0]


def _new_teacher(options: ClassifyOptions[Any], splits: Splits) -> nn.Module:
    return make_model(options.teacher, options.teacher_widths, splits.shape, splits.classes, _teacher_seed(options))


def _teacher_seed(options: ClassifyOptions[Any]) -> int:
    """Another one than the student's, by the same distance for every seed."""
    return options.config.seed + 1000


def check(options: Any, student: nn.Module, teacher: nn.Module | None, train: Any, teaches_first: bool) -> None:
    """Refuse what cannot work: the device, features, classes, settings of the student and of its teacher."""
    if teaches_first:
        change(TrainingConfig(), _teacher_settings(options, options.config.seed))
    Distiller(student, teacher, method=options.method, config=options.config, device=options.device).check(train)


def _teacher_settings(options: Any, seed: int) -> dict[str, Any]:
    settings = {name: getattr(options.config, name) for name in COMMON}
    return settings | {"epochs": options.teacher_epochs, "seed": seed}


def train_teacher(
    options: Any, teacher: nn.Module, train: Any, validation: Any, folder: Path, seed: int, names: Sequence[str]
) -> None:
    """Let a teacher learn from labels, in the run's folder, by the student's settings of training."""
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
    """A distiller of the asked method or another one that writes into a folder, or the one that did so before."""
    if options.resume and (folder / CHECKPOINT).exists():
        distiller = Distiller.load(folder, student, teacher, device=options.device)
        tell(f"going on with {folder.name} after {distiller.passes} epochs")
        return distiller
    method, config = method or options.method, config or options.config
    if options.resume and _is_first():  # killed before its first checkpoint: it begins anew
        shutil.rmtree(folder, ignore_errors=True)
    return Distiller(
        student, teacher, method=method, config=config, classes=names, device=options.device, run_dir=folder
    )
