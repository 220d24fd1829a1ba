"""``policykd train``: groups of peers that learn from one another."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Generic, Literal, TypeVar

import tyro

from policykd.cli.options import parse, peek
from policykd.cli.output import next_run, outcome, say
from policykd.core.errors import PolicyKDError, nearest
from policykd.core.fields import change, require, split_linear
from policykd.core.parsing import parse_json, read_text
from policykd.core.registry import find
from policykd.learners import LEARNERS
from policykd.measure.plots import curve_of, learning_curves
from policykd.tasks.spaces import check_named, find_task, short_id
from policykd.training import snapshot
from policykd.training.begin import resuming
from policykd.training.dual_student import DualStudent, resolve_config

C = TypeVar("C")


@dataclass(frozen=True)
class TrainOptions(Generic[C]):
    """Train groups of peers that learn from one another; --vary NAME VALUE VALUE gives a setting a value per peer."""

    env: str = "HalfCheetah-v5"
    """Task: a registered environment, with continuous actions or a choice of one."""
    method: str = "dpd"
    """How peers learn from one another (a row of the methods table)."""
    backbone: str = "ddpg"
    """How each learner improves by itself: ddpg, td3, sac, ppo, or a learner of a plugin. Settings shown are
    those of the one that is named (--backbone ppo --help)."""
    peers: int = 2
    """Learners per group."""
    seeds: tuple[int, ...] = (0,)
    """One group per seed, all trained together."""
    total_timesteps: int = 100_000
    """Environment steps of one group, all of its peers together."""
    preset: str | None = None
    """Settings by task to start from: zoo, quick, peers or dpd_paper."""
    config_file: Path | None = None
    """JSON file of settings to start from, such as the config.json of a run."""
    run_dir: Path | None = None
    """New folder for logs, evaluations and checkpoints. Default: the next free one under runs/."""
    resume: bool = False
    """Go on with the run in --run-dir from its last checkpoint, bit by bit; it begins where there is none yet."""
    device: str = "auto"
    """auto, cpu or cuda."""
    compile: Literal["auto", "yes", "no"] = "auto"
    """torch.compile the update; auto where it pays for the length of the run."""
    threads: int | Literal["auto"] = "auto"
    """Most threads of the native kernels; numbers do not depend on it. auto: as many as torch has been given."""
    config: Annotated[C, tyro.conf.OmitArgPrefixes] = field(default_factory=dict)  # type: ignore[assignment]
    """Settings of the learners, of distillation and of the run."""


def run(arguments: Sequence[str]) -> None:
    """``policykd train``."""
    options = _train_options(arguments)
    require(options.total_timesteps > 0, "total_timesteps", options.total_timesteps, "must be positive")
    say(f"policykd train: {options.method} on {options.backbone}, {options.env}")
    asked: dict[str, Any] = {
        "env": find_task(options.env).env_id,
        "method": options.method,
        "backbone": options.backbone,
        "peers": options.peers,
    }
    settings = {**asked, "seeds": list(options.seeds), "config": snapshot.plain(options.config)}
    with resuming(options.run_dir, settings) if options.resume else nullcontext() as saved:
        if saved:
            agent = DualStudent.load(saved, device=options.device)
            snapshot.check_same(agent.settings, settings)
            agent.threads = options.threads
            say(f"going on from {agent.num_timesteps:,} steps")
        else:
            agent = _begin(options, asked)
        _train(agent, options.total_timesteps)


def _begin(options: TrainOptions[Any], asked: dict[str, Any]) -> DualStudent:
    return DualStudent(
        **asked,
        seeds=options.seeds,
        config=options.config,
        device=options.device,
        compile="auto" if options.compile == "auto" else options.compile == "yes",
        threads=options.threads,
        run_dir=options.run_dir or next_run(f"{short_id(options.env)}_{options.method}-{options.backbone}"),
    )


def _train(agent: DualStudent, total_timesteps: int) -> None:
    """Train to the end, then tell and draw what came of it."""
    assert agent.folder is not None
    folder = agent.folder.path
    say(
        f"{agent.n_learners} learners ({len(agent.seeds)} groups of {agent.peers}) on {agent.device}; "
        f"{agent.memory}; computed by {agent.computed_by}"
    )
    say(f"run folder {folder}   (live: tensorboard --logdir {folder})")
    agent.learn(max(0, total_timesteps - agent.num_timesteps), progress_bar=True)
    say(outcome(agent))
    if not agent.evaluations:
        return
    done = agent.evaluation_steps, agent.evaluations
    curves = [curve_of(f"seed {seed}, peer {peer}", k, *done) for k, (seed, peer) in enumerate(agent.learners)]
    picture = learning_curves(curves, folder / "learning_curves.png", title=f"{agent.env_id}: {agent.method_name}")
    say(f"picture {picture}")


def _train_options(arguments: Sequence[str]) -> TrainOptions[Any]:
    """Options of ``train``: flags change those of the file, which change the preset's, which change the defaults."""
    vary, arguments = take_vary(arguments)
    known = peek(arguments, "env", "backbone", "preset", "config-file")
    file = known["config_file"]
    start, settings = _from_file(Path(file)) if file else (TrainOptions[Any](), {})
    if known["env"] is None:
        check_named(start.env, file)
    env, backbone, preset = (known[name] or getattr(start, name) for name in ("env", "backbone", "preset"))
    learner = find("backbone", backbone, LEARNERS)
    if vary and learner.memory != "replay":
        raise PolicyKDError(
            f"vary: peers have settings of their own off policy alone (ddpg, td3, sac), not with {backbone}"
        )
    config = change(resolve_config(preset, backbone, env), settings | ({"vary": vary} if vary else {}))
    start = dataclasses.replace(start, backbone=backbone, config=config)
    kind: Any = TrainOptions
    settings_type = learner.config_type
    return parse(kind[settings_type], split_linear(arguments, settings_type), "train", start)


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
            name, *values = words
            vary[name.replace("-", "_")] = tuple(values if name == "observations" else map(float, values))
        except ValueError:
            raise PolicyKDError(f"vary: needs a setting and a number per peer, got {' '.join(words)!r}") from None
    return vary, rest


def _from_file(path: Path) -> tuple[TrainOptions[Any], dict[str, Any]]:
    """Options of ``train`` from a JSON file, and the settings that it has under "config"."""
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
