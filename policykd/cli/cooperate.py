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
    """A CSV file with a header for each learner. Columns are matched by name, and categorical ones become one-hot.
    Default: two overlapping halves of scikit-learn's digits, each without three of the classes."""
    label: str = "label"
    """Name of the label column."""
    learners: tuple[str, ...] = ("mlp", "tree")
    """Classifier for each file: mlp, tree, forest, boosting or logistic."""
    validation: tuple[Path, ...] = ()
    """CSV files for validation, one per learner or one for all. Default: held-out rows of each file."""
    held_out: float = 0.2
    """Fraction of each file's rows held out for validation."""
    rounds: int = 1
    """Rounds in which all learners teach one another."""
    jobs: int = 1
    """Pairs of learners to run in parallel."""
    seed: int = 0
    """Random seed."""
    run_dir: Path | None = None
    """New folder for tables, plot and the counterfactuals each learner received. Default: the next free one under
    runs/."""
    resume: bool = False
    """Restart the run in --run-dir if it was killed: nothing is saved before the end."""
    search: Annotated[SearchConfig, tyro.conf.OmitArgPrefixes] = field(default_factory=SearchConfig)
    """Settings of the search for counterfactuals."""


def read(words: Sequence[str]) -> CooperateOptions:
    """Parse the options of ``cooperate``."""
    return parse(CooperateOptions, words, "cooperate")
