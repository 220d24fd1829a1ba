"""``policykd text``: distil a transformer text classifier into one with fewer layers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Generic, Literal, TypeVar

import tyro

from policykd.cli.options import method_settings, parse
from policykd.core.fields import change
from policykd.distillation.supervised.training_config import FeaturePaths

C = TypeVar("C")
EMBEDDING = "embedding"
"""As in ``classification/transformer.py``, which needs torch."""


@dataclass(frozen=True)
class TextOptions(Generic[C]):
    """Distil a transformer text classifier into its first layers, and evaluate the student once."""

    data: Path
    """Folder of train.tsv and dev.tsv in GLUE's format, or of a saved datasets.DatasetDict. The texts of dev.tsv are
    for testing; a tenth of the training texts is held out for validation."""
    teacher: Path
    """Folder of a model and its tokenizer: config.json, *.safetensors, tokenizer files."""
    examples: int | None = None
    """Training texts to use; default: all."""
    method: str = "reaugkd"
    """Distillation method (a name of the methods table)."""
    student_layers: int = 2
    """Layers of the student, initialised from the teacher's first ones."""
    teacher_epochs: int = 3
    """Epochs of fine-tuning the teacher first; 0 if it is fine-tuned already."""
    baseline: bool = True
    """Also train the same student on labels alone, from the same initial weights, and print both."""
    max_length: int = 128
    """Maximum tokens per text; longer texts are truncated."""
    freeze_embeddings: bool = True
    """Freeze the word embeddings."""
    run_dir: Path | None = None
    """New folder for teacher, student and result. Default: the next free one under runs/."""
    resume: bool = False
    """Resume the run in --run-dir from its last checkpoint, bit for bit; without a checkpoint it starts anew."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Device to train on."""
    config: Annotated[C, tyro.conf.OmitArgPrefixes] = field(default_factory=dict)  # type: ignore[assignment]
    """Settings of the method and of training."""


def read(words: Sequence[str]) -> TextOptions[Any]:
    """Parse the options, with the settings of the chosen method."""
    method, kind = method_settings(words, "reaugkd")
    config = kind(epochs=3, batch_size=32, learning_rate=1e-4)  # the default rate is too high for a pre-trained encoder
    if issubclass(kind, FeaturePaths):
        config = change(config, {"student_features": (EMBEDDING,), "teacher_features": (EMBEDDING,)})
    start = TextOptions[Any](data=tyro.MISSING, teacher=tyro.MISSING, method=method, config=config)
    return parse(TextOptions[kind], words, "text", start)  # type: ignore[valid-type]
