"""``policykd classify``: distil a classifier into a smaller one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Generic, Literal, TypeVar

import tyro

from policykd.cli.options import method_settings, parse

C = TypeVar("C")


@dataclass(frozen=True)
class ClassifyOptions(Generic[C]):
    """Distil a classifier into a smaller one, and evaluate it once on the test data."""

    data: str = "digits"
    """digits, mnist, fashion-mnist, cifar10, cifar100, a .npz file, or a folder of train/CLASS and test/CLASS."""
    data_dir: Path | None = None
    """Folder of the data's files. Default: the environment variable POLICYKD_DATA."""
    examples: int | None = None
    """Training examples to use; default: all. A tenth of them is held out for validation."""
    method: str = "hinton"
    """Distillation method (a name of the methods table)."""
    student: Literal["mlp", "cnn"] = "mlp"
    """Architecture of the student."""
    student_widths: tuple[int, ...] = (16,)
    """Hidden layers of the student; for a cnn the channels of every block, then the hidden layer."""
    teacher: Literal["mlp", "cnn"] = "mlp"
    """Architecture of the teacher."""
    teacher_widths: tuple[int, ...] = (256, 256)
    """Hidden layers of the teacher."""
    teacher_files: tuple[Path, ...] = ()
    """Weights of trained teachers (best_model.safetensors of their runs); several form an ensemble. Default: train a
    teacher on the labels first."""
    teacher_epochs: int = 20
    """Epochs of the teacher, if it is trained first."""
    baseline: bool = True
    """Also train the same student on labels alone, from the same initial weights, and print both."""
    run_dir: Path | None = None
    """New folder for teacher, student and result. Default: the next free one under runs/."""
    resume: bool = False
    """Resume the run in --run-dir from its last checkpoint, bit for bit; without a checkpoint it starts anew."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Device to train on."""
    config: Annotated[C, tyro.conf.OmitArgPrefixes] = field(default_factory=dict)  # type: ignore[assignment]
    """Settings of the method and of training."""


def read(words: Sequence[str]) -> ClassifyOptions[Any]:
    """Parse the options, with the settings of the chosen method."""
    method, kind = method_settings(words, "hinton")
    start = ClassifyOptions[Any](method=method, config=kind(epochs=30, batch_size=64, learning_rate=5e-3))
    return parse(ClassifyOptions[kind], words, "classify", start)  # type: ignore[valid-type]
