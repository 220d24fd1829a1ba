"""The ``policykd`` command: train | compare | evaluate | video. The files in ``scripts/`` are the same entry points."""

from __future__ import annotations

import argparse
import dataclasses
import json
import logging
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Generic, Literal, TypeVar

import gymnasium as gym
import numpy as np
import tyro

from policykd.agents import snapshot
from policykd.agents.dual_student import DualStudent, LearnerChoice, resolve_config
from policykd.agents.learner_envs import find_task
from policykd.agents.run_folder import CHECKPOINT
from policykd.benchmark.compare import CompareOptions, compare
from policykd.benchmark.parity import ParityOptions, parity
from policykd.errors import PolicyKDError, nearest
from policykd.learners import CONFIGS
from policykd.plots import Curve, learning_curves
from policykd.settings import change, require
from policykd.video import record_video

C = TypeVar("C")


@dataclass(frozen=True)
class TrainOptions(Generic[C]):
    """Train groups of peers that learn from one another."""

    env: str = "HalfCheetah-v5"
    """Task: a registered environment with continuous actions."""
    method: str = "dpd"
    """How peers learn from one another (a row of the methods table)."""
    backbone: Literal["ddpg", "td3", "sac", "ppo"] = "ddpg"
    """How each learner improves by itself."""
    peers: int = 2
    """Learners per group."""
    seeds: tuple[int, ...] = (0,)
    """One group per seed, all trained together."""
    total_timesteps: int = 100_000
    """Environment steps of one group, all of its peers together."""
    preset: str | None = None
    """Settings by task to start from: zoo, quick or dpd_paper."""
    config_file: Path | None = None
    """JSON file of settings to start from, such as the config.json of a run."""
    run_dir: Path | None = None
    """New folder for logs, evaluations and checkpoints. Default: the next free one under runs/."""
    resume: bool = False
    """Go on with the run in --run-dir from its last checkpoint, bit by bit."""
    device: str = "auto"
    """auto, cpu or cuda."""
    compile: Literal["auto", "yes", "no"] = "auto"
    """torch.compile the update; auto where it pays for the length of the run."""
    config: Annotated[C, tyro.conf.OmitArgPrefixes] = field(default_factory=dict)  # type: ignore[assignment]
    """Settings of the learners, of distillation and of the run."""


@dataclass(frozen=True)
class EvaluateOptions:
    """Evaluate the learners of a run or checkpoint on episodes of their own."""

    path: tyro.conf.Positional[Path]
    """A run folder or a saved agent."""
    n_eval_episodes: int = 20
    """Episodes per learner."""
    seed: int = 1_000_000
    """Seed of the episodes' starts, the same for every learner."""


@dataclass(frozen=True)
class VideoOptions:
    """Record one episode of a learner as MP4."""

    path: tyro.conf.Positional[Path]
    """A run folder or a saved agent."""
    out: Path = Path("replay.mp4")
    """The file to write."""
    learner: str = "best"
    """Index of the learner, or best."""
    steps: int = 1_000
    """At most this many environment steps."""
    seed: int = 0
    """Seed of the episode's start."""
    overwrite: bool = False
    """Replace an existing file."""


def train(arguments: Sequence[str]) -> None:
    """``policykd train``."""
    options = _train_options(arguments)
    require(options.total_timesteps > 0, "total_timesteps", options.total_timesteps, "must be positive")
    _say(f"policykd train: {options.method} on {options.backbone}, {options.env}")
    asked: dict[str, Any] = {
        "env": find_task(options.env).env_id,
        "method": options.method,
        "backbone": options.backbone,
        "peers": options.peers,
    }
    if options.resume:
        agent = _resume(options, asked)
    else:
        compiled: bool | Literal["auto"] = "auto" if options.compile == "auto" else options.compile == "yes"
        agent = DualStudent(
            **asked,
            seeds=options.seeds,
            config=options.config,
            device=options.device,
            compile=compiled,
            run_dir=options.run_dir or _next_run(options),
        )
    assert agent.folder is not None
    folder = agent.folder.path
    _say(
        f"{agent.n_learners} learners ({len(agent.seeds)} groups of {agent.peers}) on {agent.device}; "
        f"{agent.memory}; computed by {agent.computed_by}"
    )
    _say(f"run folder {folder}   (live: tensorboard --logdir {folder})")
    agent.learn(max(0, options.total_timesteps - agent.num_timesteps), progress_bar=True)
    _say(_outcome(agent))
    curves = [
        Curve(
            f"seed {seed}, peer {peer}",
            np.array(agent.evaluation_steps),
            np.stack([e.returns[k] for e in agent.evaluations]),
        )
        for k, (seed, peer) in enumerate(agent.learners)
    ]
    picture = learning_curves(curves, folder / "learning_curves.png", title=f"{agent.env_id}: {agent.method_name}")
    _say(f"picture {picture}")


def evaluate(arguments: Sequence[str]) -> None:
    """``policykd evaluate``."""
    options = tyro.cli(EvaluateOptions, args=list(arguments), prog="policykd evaluate")
    agent = DualStudent.load(options.path)
    result = agent.evaluate(options.n_eval_episodes, seed=options.seed)
    _say(f"{agent.env_id}, {options.n_eval_episodes} episodes without noise, seed {options.seed}")
    _say(_table(agent, result.returns))


def video(arguments: Sequence[str]) -> None:
    """``policykd video``."""
    options = tyro.cli(VideoOptions, args=list(arguments), prog="policykd video")
    if options.out.exists() and not options.overwrite:
        raise PolicyKDError(f"video: {options.out} exists: choose another --out, or --overwrite")
    require(options.steps > 0, "steps", options.steps, "must be positive")
    require(options.seed >= 0, "seed", options.seed, "must not be negative")
    agent = DualStudent.load(options.path)
    choice: LearnerChoice = "best" if options.learner == "best" else _index(options.learner)
    record = record_video(
        agent.env_id,
        lambda observation: agent.predict(observation, learner=choice)[0],
        options.out,
        seed=options.seed,
        steps=options.steps,
    )
    if record is not None:
        _say(f"video {record}")


def compare_sb3(arguments: Sequence[str]) -> None:
    """``policykd compare``; with --parity every backbone beside SB3's, alone, on several tasks and seeds."""
    if "--parity" in arguments:
        rest = [word for word in arguments if word != "--parity"]
        _say(parity(tyro.cli(ParityOptions, args=rest, prog="policykd compare --parity")))
        return
    options = tyro.cli(CompareOptions, args=list(arguments), prog="policykd compare")
    _, text = compare(options)
    _say("\n" + text)
    _say(f"picture {options.out / 'learning_curves.png'}, raw returns {options.out / 'returns.csv'}")


COMMANDS: dict[str, Callable[[Sequence[str]], None]] = {
    "train": train,
    "compare": compare_sb3,
    "evaluate": evaluate,
    "video": video,
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point of ``policykd``: what a user can mend ends in one line and exit status 2."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    if not arguments or arguments[0] in ("-h", "--help"):
        lines = [f"  {name:10}{(command.__doc__ or '').strip()}" for name, command in COMMANDS.items()]
        _say("usage: policykd COMMAND [options]   (policykd COMMAND --help)\n\n" + "\n".join(lines))
        return
    run(lambda: _dispatch(*arguments))


def run(job: Callable[[], None]) -> None:
    """Run a job; what a user can mend ends in one line on stderr and exit status 2, Ctrl-C in 130."""
    try:
        job()
    except PolicyKDError as error:
        print(f"policykd: error: {error}", file=sys.stderr)
        sys.exit(2)
    except (OSError, gym.error.Error) as error:  # a full disk, a folder that may not be written, a broken environment
        print(f"policykd: error: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)


def _dispatch(name: str, *arguments: str) -> None:
    if name not in COMMANDS:
        raise PolicyKDError(f"command: {name!r} is unknown{nearest(name, COMMANDS)}; there are {', '.join(COMMANDS)}")
    COMMANDS[name](arguments)


def _train_options(arguments: Sequence[str]) -> TrainOptions[Any]:
    """Options of ``train``: flags change those of the file, which change the preset's, which change the defaults."""
    first = argparse.ArgumentParser(prog="policykd train", add_help=False, allow_abbrev=False)
    for name in ("--env", "--backbone", "--preset", "--config-file"):
        first.add_argument(*dict.fromkeys((name, name.replace("config-file", "config_file"))))
    known, _ = first.parse_known_args(list(arguments))
    start, settings = _from_file(Path(known.config_file)) if known.config_file else (TrainOptions[Any](), {})
    env, backbone, preset = (getattr(known, name) or getattr(start, name) for name in ("env", "backbone", "preset"))
    if backbone not in CONFIGS:
        raise PolicyKDError(f"backbone: {backbone!r} is unknown{nearest(backbone, CONFIGS)}")
    config = change(resolve_config(preset, backbone, env), settings)
    start = dataclasses.replace(start, backbone=backbone, config=config)
    kind = TrainOptions[CONFIGS[backbone]]  # type: ignore[valid-type]
    return tyro.cli(kind, args=list(arguments), default=start, prog="policykd train", description=TrainOptions.__doc__)


def _from_file(path: Path) -> tuple[TrainOptions[Any], dict[str, Any]]:
    """Options of ``train`` from a JSON file, and the settings that it has under "config"."""
    try:
        content = json.loads(path.read_text())
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


def _resume(options: TrainOptions[Any], asked: dict[str, Any]) -> DualStudent:
    if options.run_dir is None:
        raise PolicyKDError("resume: say which run with --run-dir")
    agent = DualStudent.load(options.run_dir / CHECKPOINT, device=options.device)
    snapshot.check_same(agent, {**asked, "seeds": list(options.seeds), "config": snapshot.plain(options.config)})
    _say(f"going on from {agent.num_timesteps:,} steps")
    return agent


def _next_run(options: TrainOptions[Any]) -> Path:
    name = f"{options.env.replace('/', '-')}_{options.method}-{options.backbone}"
    number = 1
    while (folder := Path("runs") / f"{name}_{number}").exists():
        number += 1
    return folder


def _outcome(agent: DualStudent) -> str:
    last = agent.evaluations[-1].returns
    return f"last evaluation, after {agent.num_timesteps:,} steps\n{_table(agent, last)}"


def _table(agent: DualStudent, returns: Any) -> str:
    lines = [
        f"  learner {k} (seed {seed}, peer {peer}): return {returns[k].mean():,.1f} +/- {returns[k].std():,.1f}"
        for k, (seed, peer) in enumerate(agent.learners)
    ]
    return "\n".join(lines)


def _index(text: str) -> int:
    if not text.isdigit():
        raise PolicyKDError(f"learner: {text!r} is neither an index nor 'best'")
    return int(text)


def _say(text: str) -> None:
    print(text, flush=True)


if __name__ == "__main__":
    main()
