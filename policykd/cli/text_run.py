"""Runs ``policykd text`` with parsed options."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from policykd.classification.data.text import bucketed, read_texts, split, tokenise
from policykd.classification.models import parameters
from policykd.classification.settings import resolve_config
from policykd.classification.transformer import (
    TextClassifier,
    load_classifier,
    load_tokenizer,
    model_classes,
)
from policykd.cli.distillers import (
    check,
    fit_baseline,
    measure,
    open_distiller,
    print_once,
    processes,
    run_folder,
    train_teacher,
)
from policykd.cli.text import TextOptions
from policykd.core.errors import PolicyKDError
from policykd.core.fields import require
from policykd.distillation.supervised import METHODS

TEACHER, STUDENT = "teacher_model", "student_model"


def run(options: TextOptions[Any]) -> None:
    """Train the student, fine-tuning its teacher first if requested, or resume a run; evaluate the student once."""
    resolve_config(METHODS[options.method], options.config)  # before data and networks are read
    epochs = options.teacher_epochs
    require(epochs >= 0, "teacher_epochs", epochs, "must not be negative (0 uses the teacher as it is)")
    tokenizer = load_tokenizer(options.teacher)
    of_model = model_classes(options.teacher)
    known, unseen = read_texts(options.data, of_model)
    parts = (*split(known, options.examples, 0.1, 0), unseen)
    train, validation, test = (tokenise(tokenizer, part, options.max_length) for part in parts)
    names = agreed_class_names(known.names, of_model, options.teacher_epochs > 0)
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
    longest = max(part.inputs.shape[-1] for part in (train, validation, test))
    require(longest <= student.positions, "max_length", options.max_length, _too_long(longest, student.positions))
    teacher = classifier(trained_head=not options.teacher_epochs) if METHODS[options.method].uses_teacher else None
    batches = bucketed(train, options.config.batch_size, options.config.seed, processes())
    check(options, student, teacher, batches, teacher is not None and options.teacher_epochs > 0)
    with run_folder(options, "text") as folder:
        print_once(
            f"policykd text: {options.method} on {options.data}, {len(train.labels):,} training texts; student "
            f"{parameters(student):,} parameters" + ("" if teacher is None else f", teacher {parameters(teacher):,}")
        )
        print_once(f"run folder {folder}   (live: tensorboard --logdir {folder})")
        if teacher is not None and options.teacher_epochs:
            print_once(f"fine-tuning the teacher, {options.teacher_epochs} epochs")
            train_teacher(options, teacher, batches, tuple(validation), folder, options.config.seed, names)
        distiller = open_distiller(options, student, teacher, folder / "student", names)
        distiller.fit(batches, tuple(validation), progress_bar=True)
        baseline = fit_baseline(options, new_student, teacher, batches, tuple(validation), folder, names)
        measure(distiller, tuple(train), tuple(validation), tuple(test), folder, baseline)
        if distiller.accelerator.is_main_process:
            _save(student, tokenizer, folder / STUDENT)
            if teacher is not None:
                _save(teacher, tokenizer, folder / TEACHER)


def agreed_class_names(of_data: tuple[str, ...], of_model: tuple[str, ...] | None, learns: bool) -> tuple[str, ...]:
    """The class names that data and model agree on.

    Args:
        of_data: in the order of the data's labels.
        of_model: in the model's order; None if it has none.
        learns: whether the model will be fine-tuned on the data's classes, whatever its own were.

    Raises:
        PolicyKDError: a model that is not fine-tuned has other class names.
    """
    if of_model is None or [*map(str.lower, of_data)] == [*map(str.lower, of_model)] or learns:
        return of_data
    if len(of_model) == len(of_data) and all(name.isdecimal() for name in of_data):
        pairs = ", ".join(f"{number} is {name}" for number, name in zip(of_data, of_model, strict=True))
        print_once(f"the data set numbers its classes; the model names them: {pairs}")
        return of_model
    raise PolicyKDError(
        f"classes: the data have {', '.join(of_data)}, but the teacher has {', '.join(of_model)}: choose another "
        "teacher, or fine-tune it first (--teacher-epochs)"
    )


def _too_long(longest: int, positions: int) -> str:
    return f"leaves {longest} tokens of a text, and the model reads {positions}: lower --max-length"


def _save(classifier: TextClassifier, tokenizer: Any, folder: Path) -> None:
    """Write a folder that transformers can load."""
    classifier.model.save_pretrained(folder)  # type: ignore[operator]
    tokenizer.save_pretrained(folder)
