"""``policykd text``: distil a transformer that classifies text into one of fewer layers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Generic, Literal, TypeVar

import tyro

from policykd.classification.data.text import bucketed, read_texts, split, tokenise
from policykd.classification.models import parameters
from policykd.classification.transformer import (
    EMBEDDING,
    TextClassifier,
    load_classifier,
    load_tokenizer,
    model_classes,
)
from policykd.cli.distillers import (
    asked_method,
    check,
    fit_baseline,
    measure,
    open_distiller,
    run_folder,
    tell,
    train_teacher,
)
from policykd.cli.options import parse
from policykd.core.errors import PolicyKDError
from policykd.core.fields import change
from policykd.distillation.supervised import METHODS
from policykd.distillation.supervised.feature_maps import FeaturePaths

C = TypeVar("C")
TEACHER, STUDENT = "teacher_model", "student_model"


@dataclass(frozen=True)
class TextOptions(Generic[C]):
    """Distil a transformer that classifies text into its first layers, and measure the student once."""

    data: Path
    """Folder of train.tsv and dev.tsv, as GLUE has them, or of a saved datasets.DatasetDict. The texts of dev.tsv are
    for testing; a tenth of the training texts is for validation."""
    teacher: Path
    """Folder of a model and its tokenizer: config.json, *.safetensors, tokenizer files."""
    examples: int | None = None
    """Training texts to use; default: all."""
    method: str = "reaugkd"
    """How the student learns (a name of the methods table)."""
    student_layers: int = 2
    """Layers of the student, which is initialised with the teacher's first ones."""
    teacher_epochs: int = 3
    """Epochs that fine-tune the teacher first; 0: it has been."""
    baseline: bool = True
    """Also train the same student from labels alone, from the same first weights, and print both."""
    max_length: int = 128
    """Tokens kept of a text."""
    freeze_embeddings: bool = True
    """Freeze the word embeddings."""
    run_dir: Path | None = None
    """New folder for teacher, student and result. Default: the next free one under runs/."""
    resume: bool = False
    """Go on with the run in --run-dir from its last checkpoint, bit by bit; it begins where there is none yet."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to compute."""
    config: Annotated[C, tyro.conf.OmitArgPrefixes] = field(default_factory=dict)  # type: ignore[assignment]
    """Settings of the method and of training."""


def run(arguments: Sequence[str]) -> None:
    """``policykd text``."""
    options = _options(arguments)
    tokenizer = load_tokenizer(options.teacher)
    of_model = model_classes(options.teacher)
    known, unseen = read_texts(options.data, of_model)
    parts = (*split(known, options.examples, 0.1, 0), unseen)
    train, validation, test = (tokenise(tokenizer, part, options.max_length) for part in parts)
    names = settled_names(known.names, of_model, options.teacher_epochs > 0)
    classifier = partial(
        load_classifier,
        options.teacher,
        names,
        tokenizer.pad_token_id,
        freeze_embeddings=options.freeze_embeddings,
        seed=options.config.seed,
    )
    new_student = partial(classifier, layers=options.student_layers)
    student = new_student()
    teacher = classifier(trained_head=not options.teacher_epochs) if METHODS[options.method].uses_teacher else None
    batches = bucketed(train, options.config.batch_size, options.config.seed)
    check(options, student, teacher, batches, teacher is not None and options.teacher_epochs > 0)
    with run_folder(options, "text") as folder:
        tell(
            f"policykd text: {options.method} on {options.data}, {len(train.labels):,} training texts; student "
            f"{parameters(student):,} parameters" + ("" if teacher is None else f", teacher {parameters(teacher):,}")
        )
        tell(f"run folder {folder}   (live: tensorboard --logdir {folder})")
        if teacher is not None and options.teacher_epochs:
            tell(f"fine-tuning the teacher, {options.teacher_epochs} epochs")
            train_teacher(options, teacher, batches, tuple(validation), folder, options.config.seed, names)
        distiller = open_distiller(options, student, teacher, folder / "student", names)
        distiller.fit(batches, tuple(validation), progress_bar=True)
        baseline = fit_baseline(options, new_student, teacher, batches, tuple(validation), folder, names)
        measure(distiller, tuple(train), tuple(validation), tuple(test), folder, baseline)
        if distiller.accelerator.is_main_process:
            _save(student, tokenizer, folder / STUDENT)
            if teacher is not None:
                _save(teacher, tokenizer, folder / TEACHER)


def settled_names(of_data: tuple[str, ...], of_model: tuple[str, ...] | None, learns: bool) -> tuple[str, ...]:
    """The names of the classes of data and model together.

    Args:
        of_data: in the order of the data's numbers.
        of_model: in the model's order; None where it has none.
        learns: whether the model will learn the data's classes first, whatever it had.

    Raises:
        PolicyKDError: a model that is used as it is has classes of other names.
    """
    if of_model is None or [*map(str.lower, of_data)] == [*map(str.lower, of_model)] or learns:
        return of_data
    if len(of_model) == len(of_data) and all(name.isdigit() for name in of_data):
        pairs = ", ".join(f"{number} is {name}" for number, name in zip(of_data, of_model, strict=True))
        tell(f"the data number their classes; by the model's names {pairs}")
        return of_model
    raise PolicyKDError(
        f"classes: the data have {', '.join(of_data)} and the teacher {', '.join(of_model)}: choose another teacher, "
        "or fine-tune it first (--teacher-epochs)"
    )


def _save(classifier: TextClassifier, tokenizer: Any, folder: Path) -> None:
    """A folder that transformers loads."""
    classifier.model.save_pretrained(folder)  # type: ignore[operator]
    tokenizer.save_pretrained(folder)


def _options(arguments: Sequence[str]) -> TextOptions[Any]:
    """Options with the settings of the method that is asked for."""
    method, kind = asked_method(arguments, "reaugkd")
    config = kind(epochs=3, batch_size=32, learning_rate=1e-4)  # rates of images are too high for a pre-trained encoder
    if issubclass(kind, FeaturePaths):
        config = change(config, {"student_features": (EMBEDDING,), "teacher_features": (EMBEDDING,)})
    start = TextOptions[Any](data=tyro.MISSING, teacher=tyro.MISSING, method=method, config=config)
    return parse(TextOptions[kind], arguments, "text", start)  # type: ignore[valid-type]
