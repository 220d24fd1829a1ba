"""``policykd video``: record an episode."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro

from policykd.cli.options import parse
from policykd.cli.output import check_file, say
from policykd.core.errors import PolicyKDError
from policykd.core.fields import require
from policykd.training.learner_choice import LearnerChoice


@dataclass(frozen=True)
class VideoOptions:
    """Record one episode of a learner as MP4."""

    path: tyro.conf.Positional[Path]
    """A run folder or a saved agent."""
    env: str | None = None
    """Its task, if registered by your own module, which is imported: my_tasks:Task-v0."""
    out: Path = Path("replay.mp4")
    """File to write."""
    learner: int | Literal["best"] = "best"
    """Index of the learner, or best."""
    steps: int = 1_000
    """Maximum number of environment steps."""
    seed: int = 0
    """Seed of the episode's initial state."""
    overwrite: bool = False
    """Replace an existing file."""


def run(arguments: Sequence[str]) -> None:
    """``policykd video``; the exit status is 1 if the task cannot be rendered."""
    options = parse(VideoOptions, arguments, "video")
    from policykd.measure.video import check_name, record_video  # imports gymnasium

    check_name(options.out)  # before the agent is loaded and plays
    check_file("video", options.out, "video", "replay.mp4")
    if options.out.exists() and not options.overwrite:
        raise PolicyKDError(f"video: {options.out} exists: choose another --out, or --overwrite")
    require(options.steps > 0, "steps", options.steps, "must be positive")
    require(options.seed >= 0, "seed", options.seed, "must not be negative")
    from policykd.training.loading import load_agent  # imports torch

    agent = load_agent(options.path, options.env)
    choice: LearnerChoice = options.learner
    record = record_video(agent.env_id, agent.player(choice), options.out, seed=options.seed, steps=options.steps)
    if record is None:  # a warning has said why
        sys.exit(1)
    say(f"video {record}")
