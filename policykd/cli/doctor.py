"""``policykd doctor``: why does my distillation not work? One page; exit status 1 if something is wrong."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from policykd.cli.options import parse, peek, widths
from policykd.cli.output import check_page, say
from policykd.core.files import write_text
from policykd.distillation.observations import GROUPS, PARTS
from policykd.distillation.teaching_config import TAUGHT_CONFIGS


@dataclass(frozen=True)
class DoctorOptions:
    """Play a teacher, clone it on the states it visits, and diagnose what is wrong. Exit status 1 if anything is."""

    teacher: str
    """File or folder of the teacher: SB3 zip, zoo folder, policykd run, ONNX."""
    env: str = "HalfCheetah-v5"
    """Task: a registered environment with continuous or discrete actions."""
    student_observations: Annotated[str | tuple[int | str, ...] | None, PARTS] = None
    """Groups or columns of the observation that the student sees. Default: all."""
    teacher_observations: Annotated[str | tuple[int | str, ...] | None, PARTS] = None
    """Groups or columns that the teacher reads. Default: all."""
    observation_groups: Annotated[dict[str, tuple[int, ...]] | None, GROUPS] = None
    """Named columns, in addition to the task's own groups: NAME=0:3 or NAME=0,1,2."""
    history: int = 1
    """Number of stacked observations that the student sees: the latest ones of its episode."""
    backbone: Literal["ppo", "td3", "ddpg", "sac"] = "ppo"
    """Backbone of the student, which sets the defaults of the next three options."""
    student: str | None = None
    """Hidden layers of the student, such as 64x64."""
    learning_rate: float | None = None
    """The student's distill_learning_rate."""
    normalize: bool = True
    """Whether the student normalises observations. Default: as students of the backbone do."""
    n_episodes: int = 20
    """Episodes of the teacher, and as many of random actions."""
    updates: int = 5_000
    """Gradient steps of each cloned student; 0 checks the teacher only."""
    seed: int = 0
    """Seed of episodes, weights and minibatches."""
    trust: bool = False
    """Run pickles that come with the teacher. Only for files you trust."""
    out: Path | None = None
    """Also write the page to this file, replacing an earlier page."""


def run(arguments: Sequence[str]) -> None:
    """``policykd doctor``."""
    options = _options(arguments)
    if options.out is not None:
        check_page("doctor", options.out, "doctor: teacher ")
    from policykd.measure.doctor import diagnose  # imports torch

    diagnosis = diagnose(
        options.teacher,
        options.env,
        student_observations=options.student_observations,
        teacher_observations=options.teacher_observations,
        observation_groups=options.observation_groups,
        history=options.history,
        backbone=options.backbone,
        net_arch=None if options.student is None else widths(options.student),
        learning_rate=options.learning_rate,
        normalize=options.normalize,
        n_episodes=options.n_episodes,
        updates=options.updates,
        seed=options.seed,
        trust=options.trust,
    )
    say(str(diagnosis))
    if options.out is not None:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        write_text(options.out, f"{diagnosis}\n")
    if diagnosis.wrong:
        sys.exit(1)


def _options(words: Sequence[str]) -> DoctorOptions:
    """Parse the options of ``doctor``, with the backbone's defaults."""
    kind = TAUGHT_CONFIGS.get(peek(words, "backbone")["backbone"] or "ppo")
    normalizes = kind is not None and getattr(kind(), "normalize_observation", False)
    return parse(DoctorOptions, words, "doctor", DoctorOptions(tyro.MISSING, normalize=normalizes))
