"""``policykd text``: distil a transformer that classifies text into one of fewer layers."""

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
"""That of ``classification/transformer.py``, which needs torch."""


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


def read(words: Sequence[str]) -> TextOptions[Any]:
    """Options with the settings of the method that is asked for."""
    method, kind = method_settings(words, "reaugkd")
    config = kind(epochs=3, batch_size=32, learning_rate=1e-4)  # rates of images are too high for a pre-trained encoder
    if issubclass(kind, FeaturePaths):
        config = change(config, {"student_features": (EMBEDDING,), "teacher_features": (EMBEDDING,)})
    start = TextOptions[Any](data=tyro.MISSING, teacher=tyro.MISSING, method=method, config=config)
    return parse(TextOptions[kind], words, "text", start)  # type: ignore[valid-type]
