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
    """Train small students to imitate a frozen teacher."""

    teacher: tuple[str, ...] = ()
    """File or folder of the teacher: SB3 zip, zoo folder, policykd run, TorchScript, ONNX. Several are combined."""
    env: str = "HalfCheetah-v5"
    """Task: a registered environment with continuous or discrete actions."""
    method: str = "dagger"
    """Distillation method (a row of the methods table): dagger, bc, kickstarting, ppd, ..."""
    backbone: str = "ppo"
    """Policy of a student: ppo is Gaussian or categorical, td3 and ddpg deterministic, sac a squashed Gaussian; or a
    learner of a plugin."""
    student: tuple[str, ...] = ()
    """Hidden layers of the students, such as 64x64 (without it --net-arch); several sizes are trained one after
    the other and compared."""
    seeds: tuple[int, ...] = (0,)
    """One student per seed, all trained together."""
    total_timesteps: int = 100_000
    """Environment steps of each student."""
    fine_tune: int = 0
    """Environment steps of RL on the task's reward after distillation, with the backbone's algorithm."""
    final_episodes: int = 50
    """Evaluation episodes of each student and of the teacher, from the same initial states, for the final table."""
    preset: str | None = None
    """Settings to start from: quick."""
    run_dir: Path | None = None
    """New folder for logs, evaluations, checkpoints and the table. Default: the next free one under runs/."""
    resume: bool = False
    """Resume the run in --run-dir from its last checkpoint, bit for bit; without a checkpoint it starts anew."""
    vecnormalize: Path | None = None
    """The teacher's vecnormalize.pkl, if it is not beside its zip (single teacher only)."""
    trust: bool = False
    """Load teachers that are programs (TorchScript, pickles) and run their code. Only for files you trust."""
    device: str = "auto"
    """auto, cpu or cuda."""
    compile: Literal["auto", "yes", "no"] = "auto"
    """torch.compile the update; auto does so if the run is long enough to repay it."""
    threads: int | Literal["auto"] = "auto"
    """Maximum threads of the native kernels; results do not depend on it. auto: torch's own number of threads."""
    config: Annotated[C, tyro.conf.OmitArgPrefixes] = field(default_factory=dict)  # type: ignore[assignment]
    """Settings of students, distillation and run."""


def read(words: Sequence[str]) -> DistillOptions[Any]:
    """Parse the options of ``distill``: flags override the preset, which overrides the defaults."""
    known = peek(words, "backbone", "preset")
    backbone: Any = known["backbone"] or "ppo"
    kind = taught_config(backbone, settings_type(backbone))
    config = presets.resolve_config(known["preset"], kind, backbone, presets.teaching_preset)
    start = dataclasses.replace(DistillOptions[Any](), backbone=backbone, config=config)
    return parse(DistillOptions[kind], split_linear(words, kind), "distill", start)  # type: ignore[valid-type]
