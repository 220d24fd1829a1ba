"""``policykd distill``: students of a frozen teacher, of one size or of several."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Generic, Literal, TypeVar

import tyro

from policykd.cli.options import parse, peek
from policykd.cli.train import settings_type
from policykd.core.fields import split_linear
from policykd.distillation.teaching_config import taught_config
from policykd.learners import presets

C = TypeVar("C")


@dataclass(frozen=True)
class DistillOptions(Generic[C]):
    """Train small students to act as a frozen teacher does."""

    teacher: tuple[str, ...] = ()
    """File or folder of the teacher: SB3 zip, zoo folder, run of policykd, TorchScript, ONNX. Several teach as one."""
    env: str = "HalfCheetah-v5"
    """Task: a registered environment, with continuous actions or a choice of one."""
    method: str = "dagger"
    """How students learn (a row of the methods table): dagger, bc, kickstarting, ppd, ..."""
    backbone: str = "ppo"
    """What a student is: ppo Gaussian or choosing, td3 and ddpg deterministic, sac squashed Gaussian, or a learner of
    a plugin."""
    student: tuple[str, ...] = ()
    """Hidden layers of the students, such as 64x64 (without it --net-arch); several sizes are trained one after
    the other and compared."""
    seeds: tuple[int, ...] = (0,)
    """One student per seed, all trained together."""
    total_timesteps: int = 100_000
    """Environment steps of each student."""
    fine_tune: int = 0
    """Environment steps of RL on the task's own reward afterwards, with the backbone's algorithm."""
    final_episodes: int = 50
    """Episodes of each student, and of the teacher from the same starts, for the table at the end."""
    preset: str | None = None
    """Settings to start from: quick."""
    run_dir: Path | None = None
    """New folder for logs, evaluations, checkpoints and the table. Default: the next free one under runs/."""
    resume: bool = False
    """Go on with the run in --run-dir from its last checkpoint, bit by bit; it begins where there is none yet."""
    vecnormalize: Path | None = None
    """The teacher's vecnormalize.pkl, where it is not beside its zip (of one teacher)."""
    trust: bool = False
    """Load teachers that are programs (TorchScript, pickles) and run what is in them. Only for files of your own."""
    device: str = "auto"
    """auto, cpu or cuda."""
    compile: Literal["auto", "yes", "no"] = "auto"
    """torch.compile the update; auto where it pays for the length of the run."""
    threads: int | Literal["auto"] = "auto"
    """Most threads of the native kernels; numbers do not depend on it. auto: as many as torch has been given."""
    config: Annotated[C, tyro.conf.OmitArgPrefixes] = field(default_factory=dict)  # type: ignore[assignment]
    """Settings of students, teaching and run."""


def read(words: Sequence[str]) -> DistillOptions[Any]:
    """Options of ``distill``: flags change the preset's settings, which change the defaults."""
    known = peek(words, "backbone", "preset")
    backbone: Any = known["backbone"] or "ppo"
    kind = taught_config(backbone, settings_type(backbone))
    config = presets.resolve_config(known["preset"], kind, backbone, presets.teaching_preset)
    start = dataclasses.replace(DistillOptions[Any](), backbone=backbone, config=config)
    return parse(DistillOptions[kind], split_linear(words, kind), "distill", start)  # type: ignore[valid-type]
