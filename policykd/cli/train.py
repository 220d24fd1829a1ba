"""``policykd train``: train groups of peers that distil from one another."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Generic, Literal, TypeVar

import tyro

from policykd.cli.options import parse, peek
from policykd.core.errors import PolicyKDError, nearest
from policykd.core.fields import change, split_linear
from policykd.core.parsing import parse_json, read_text
from policykd.core.registry import find
from policykd.learners import presets
from policykd.learners.config import CONFIGS, OffPolicyConfig

C = TypeVar("C")


@dataclass(frozen=True)
class TrainOptions(Generic[C]):
    """Train groups of peers that distil from one another; --vary NAME VALUE VALUE sets one value per peer."""

    env: str = "HalfCheetah-v5"
    """Task: a registered environment with continuous or discrete actions."""
    method: str = "dpd"
    """Distillation method of the peers (a row of the methods table)."""
    backbone: str = "ddpg"
    """RL algorithm of the learners: ddpg, td3, sac, ppo, or a plugin's. --help shows the settings of the one named
    (--backbone ppo --help)."""
    peers: int = 2
    """Learners per group."""
    seeds: tuple[int, ...] = (0,)
    """One group per seed, all trained together."""
    total_timesteps: int = 100_000
    """Environment steps of one group, all of its peers together."""
    preset: str | None = None
    """Preset settings for the task: zoo, quick, peers or dpd_paper."""
    config_file: Path | None = None
    """JSON file with settings to start from, such as the config.json of a run."""
    run_dir: Path | None = None
    """New folder for logs, evaluations and checkpoints. Default: the next free one under runs/."""
    resume: bool = False
    """Resume the run in --run-dir from its last checkpoint, bit for bit; without a checkpoint it starts anew."""
    device: str = "auto"
    """auto, cpu or cuda."""
    compile: Literal["auto", "yes", "no"] = "auto"
    """torch.compile the update; auto does so if the run is long enough to repay it."""
    threads: int | Literal["auto"] = "auto"
    """Maximum threads of the native kernels; results do not depend on it. auto: torch's own number of threads."""
    config: Annotated[C, tyro.conf.OmitArgPrefixes] = field(default_factory=dict)  # type: ignore[assignment]
    """Settings of the learners, of distillation and of the run."""


def read(words: Sequence[str]) -> TrainOptions[Any]:
    """Parse the options of ``train``: flags override the file, which overrides the preset, then the defaults."""
    vary, words = take_vary(words)
    known = peek(words, "env", "backbone", "preset", "config-file")
    file = known["config_file"]
    start, settings = _from_file(Path(file)) if file else (TrainOptions[Any](), {})
    if known["env"] is None and file:
        from policykd.tasks.spaces import check_named  # imports torch

        check_named(start.env, file)
    env, backbone, preset = (known[name] or getattr(start, name) for name in ("env", "backbone", "preset"))
    kind = settings_type(backbone)
    if vary and not issubclass(kind, OffPolicyConfig):
        raise PolicyKDError(
            f"vary: peers can have different settings only off policy (ddpg, td3, sac), not with {backbone}"
        )
    config = presets.resolve_config(preset, kind, backbone, lambda name: presets.preset(name, env, backbone))
    config = change(config, settings | ({"vary": vary} if vary else {}))
    start = dataclasses.replace(start, backbone=backbone, config=config)
    return parse(TrainOptions[kind], split_linear(words, kind), "train", start)  # type: ignore[valid-type]


def settings_type(backbone: str) -> type[Any]:
    """The dataclass of a backbone's settings; only a plugin's needs torch."""
    if backbone in CONFIGS:
        return CONFIGS[backbone]
    from policykd.learners import LEARNERS

    return find("backbone", backbone, LEARNERS).config_type


def take_vary(arguments: Sequence[str]) -> tuple[dict[str, tuple[float | str, ...]], list[str]]:
    """Settings with one value per peer, ``--vary NAME VALUE VALUE ...``, and the arguments without them.

    Raises:
        PolicyKDError: a name without values, or a value that is not a number.
    """
    vary: dict[str, tuple[float | str, ...]] = {}
    rest: list[str] = []
    left = list(arguments)
    while left:
        word = left.pop(0)
        if word != "--vary":
            rest.append(word)
            continue
        words = []
        while left and not left[0].startswith("--"):
            words.append(left.pop(0))
        try:
            name, first, *others = words
            values = [first, *others]
            vary[name.replace("-", "_")] = tuple(values if name == "observations" else map(float, values))
        except ValueError:
            rule = "needs a setting and a number per peer, such as gamma 0.9 0.99"
            raise PolicyKDError(f"vary: {rule}, got {' '.join(words)!r}") from None
    return vary, rest


def _from_file(path: Path) -> tuple[TrainOptions[Any], dict[str, Any]]:
    """Options of ``train`` from a JSON file, and the settings under its key "config"."""
    try:
        content = parse_json(read_text(path))
    except (OSError, ValueError) as error:
        raise PolicyKDError(f"config file: cannot read {path}: {error}") from None
    settings = content.pop("config", {}) if isinstance(content, dict) else None
    if not isinstance(settings, dict):
        raise PolicyKDError(f'config file: {path} must hold options by name, with the settings by name under "config"')
    names = {f.name for f in dataclasses.fields(TrainOptions)} - {"config_file", "config", "resume", "run_dir"}
    for name in content:
        if name not in names:
            raise PolicyKDError(f"config file: unknown key {name!r} in {path}{nearest(name, names)}")
    return change(TrainOptions[Any](), content), settings
