"""``policykd fidelity``: how alike a student and its teacher are, classifier or policy; or the peers of a run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro

from policykd.cli.options import parse

TOLERANCE = 0.1
"""That of ``measure/fidelity.py``, which needs torch."""


@dataclass(frozen=True)
class FidelityOptions:
    """Compare a run's student with its teacher (classify, distill), or its peers with one another: table, picture."""

    run: tyro.conf.Positional[Path]
    """Folder of the run, or a saved agent."""
    env: str | None = None
    """distill: its task, where that is of a module of your own, such as my_tasks:Task-v0, which is imported."""
    control: Path | None = None
    """A run of the same settings and another teacher: how similar to this teacher is a student of another one? For
    peers: a run of the same task whose peers share nothing (--method independent)."""
    student_features: tuple[str, ...] = ()
    """classify: modules of the student for CKA; none compares the logits."""
    teacher_features: tuple[str, ...] = ()
    """classify: modules of the teacher to compare them with."""
    teacher: tuple[str, ...] = ()
    """distill: files or folders of the teacher. Default: where the run found it."""
    vecnormalize: Path | None = None
    """distill: the teacher's vecnormalize.pkl, where it is not beside its zip (of one teacher)."""
    trust: bool = False
    """distill: load teachers that are programs (TorchScript, pickles) and run what is in them."""
    learner: int | Literal["best"] = "best"
    """distill: index of the student, or best."""
    tolerance: float = TOLERANCE
    """distill: actions agree where no dimension differs by more, in actions scaled to [-1, 1]."""
    steps: int = 1_000
    """distill: environment steps that student and teacher take each."""
    out: Path | None = None
    """Folder of table and picture. Default: the run's."""


def read(words: Sequence[str]) -> FidelityOptions:
    """Options of ``fidelity``."""
    return parse(FidelityOptions, words, "fidelity")
