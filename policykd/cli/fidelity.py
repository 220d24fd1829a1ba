"""``policykd fidelity``: how similar a student is to its teacher (classifier or policy), or a run's peers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro

from policykd.cli.options import parse

TOLERANCE = 0.1
"""As in ``measure/fidelity.py``, which needs torch."""


@dataclass(frozen=True)
class FidelityOptions:
    """Compare a run's student with its teacher (classify, distill), or its peers with one another: table and plot."""

    run: tyro.conf.Positional[Path]
    """Folder of the run, or a saved agent."""
    env: str | None = None
    """distill: its task, if registered by your own module, which is imported: my_tasks:Task-v0."""
    control: Path | None = None
    """A run with the same settings and another teacher: how similar is its student to this run's teacher? For
    peers: a run of the same task whose peers share nothing (--method independent)."""
    student_features: tuple[str, ...] = ()
    """classify: modules of the student for CKA. Default: compare the logits."""
    teacher_features: tuple[str, ...] = ()
    """classify: modules of the teacher to compare them with."""
    teacher: tuple[str, ...] = ()
    """distill: files or folders of the teacher. Default: those that the run was made with."""
    vecnormalize: Path | None = None
    """distill: the teacher's vecnormalize.pkl, if it is not beside its zip (single teacher only)."""
    trust: bool = False
    """distill: load teachers that are programs (TorchScript, pickles) and run their code."""
    learner: int | Literal["best"] = "best"
    """distill: index of the student, or best."""
    tolerance: float = TOLERANCE
    """distill: actions agree if no dimension differs by more than this, in actions scaled to [-1, 1]."""
    steps: int = 1_000
    """distill: environment steps that student and teacher take each."""
    out: Path | None = None
    """Folder for table and plot. Default: the run's."""


def read(words: Sequence[str]) -> FidelityOptions:
    """Parse the options of ``fidelity``."""
    return parse(FidelityOptions, words, "fidelity")
