"""``policykd cooperate``: let classifiers of several owners teach one another."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from policykd.cli.options import parse
from policykd.cooperation.config import SearchConfig


@dataclass(frozen=True)
class CooperateOptions:
    """Let classifiers of several owners teach one another by counterfactuals; no row reaches another unchanged."""

    data: tuple[Path, ...] = ()
    """A CSV file with a header for each learner; columns are matched by name, those of words become one-hot. Default:
    two overlapping halves of scikit-learn's digits, each without three of the classes."""
    label: str = "label"
    """Column of the class."""
    learners: tuple[str, ...] = ("mlp", "tree")
    """A kind for each file: mlp, tree, forest, boosting or logistic."""
    validation: tuple[Path, ...] = ()
    """CSV files to measure on, one for each learner or one for all. Default: held-out rows of each file."""
    held_out: float = 0.2
    """Share of each file's rows that is kept for that, and for nothing else."""
    rounds: int = 1
    """How often all learners teach one another."""
    jobs: int = 1
    """Pairs of learners at a time."""
    seed: int = 0
    """Of everything random."""
    run_dir: Path | None = None
    """New folder for tables, picture and what each learner received. Default: the next free one under runs/."""
    resume: bool = False
    """Start the run in --run-dir again if it was killed: nothing is saved before the end."""
    search: Annotated[SearchConfig, tyro.conf.OmitArgPrefixes] = field(default_factory=SearchConfig)
    """Settings of the search for counterfactuals."""


def read(words: Sequence[str]) -> CooperateOptions:
    """Options of ``cooperate``."""
    return parse(CooperateOptions, words, "cooperate")
