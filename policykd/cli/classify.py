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


def read(words: Sequence[str]) -> ClassifyOptions[Any]:
    """Options with the settings of the method that is asked for."""
    method, kind = method_settings(words, "hinton")
    start = ClassifyOptions[Any](method=method, config=kind(epochs=30, batch_size=64, learning_rate=5e-3))
    return parse(ClassifyOptions[kind], words, "classify", start)  # type: ignore[valid-type]
