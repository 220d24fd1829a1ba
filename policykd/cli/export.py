"""``policykd export``: a learner of a run in the formats that people deploy."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro

from policykd.cli.options import parse
from policykd.cli.output import say
from policykd.core.fields import require
from policykd.export.deployed import require_free
from policykd.export.hub import to_hub_folder
from policykd.export.onnx import require_packages, to_onnx
from policykd.export.torchscript import to_torchscript
from policykd.export.zoo import to_zip
from policykd.tasks.spaces import short_id
from policykd.training.agent import Agent, LearnerChoice
from policykd.training.loading import load_agent

Format = Literal["sb3", "onnx", "torchscript", "hub"]
FILES: dict[Format, str] = {"sb3": "{task}.zip", "onnx": "{task}.onnx", "torchscript": "{task}.pt", "hub": "hub"}
"""What each format is called in the folder."""
WRITERS: dict[Format, Callable[[Agent, int, Path], float]] = {
    "sb3": to_zip,
    "onnx": to_onnx,
    "torchscript": to_torchscript,
}


@dataclass(frozen=True)
class ExportOptions:
    """Write a learner of a run in the formats that people deploy, each checked against the learner."""

    path: tyro.conf.Positional[Path]
    """A run folder or a saved agent."""
    env: str | None = None
    """Its task, where that is of a module of your own, such as my_tasks:Task-v0, which is imported."""
    format: tuple[Format, ...] = ("sb3", "onnx", "torchscript", "hub")
    """sb3: a zip of Stable-Baselines3; onnx, torchscript: one file each; hub: a folder for the Hugging Face Hub."""
    out: Path = Path("exported")
    """The folder to write to. Files that exist are never replaced."""
    learner: int | Literal["best"] = "best"
    """Index of the learner, or best."""
    n_eval_episodes: int = 20
    """Episodes for the Hub's model card."""
    seed: int = 1_000_000
    """Seed of these episodes' starts and of the replay."""
    video: bool = True
    """Record a replay for the Hub."""


def run(arguments: Sequence[str]) -> None:
    """``policykd export``."""
    options = parse(ExportOptions, arguments, "export")
    require(bool(options.format), "format", (), f"needs one or more of {', '.join(FILES)}")
    require(options.n_eval_episodes >= 1, "n_eval_episodes", options.n_eval_episodes, "must be positive")
    require(options.seed >= 0, "seed", options.seed, "must not be negative")
    agent = load_agent(options.path, options.env)
    choice: LearnerChoice = options.learner
    k, task = agent.learner_index(choice), short_id(agent.env_id).replace("/", "-")
    files = {kind: options.out / FILES[kind].format(task=task) for kind in dict.fromkeys(options.format)}
    for file in files.values():  # before the first is written
        require_free(file)
    if "onnx" in files:
        require_packages()
    say(f"learner {k} of {options.path} ({agent.env_id})")
    for kind, file in files.items():
        if kind == "hub":
            score = to_hub_folder(agent, k, file, options.n_eval_episodes, options.seed, options.video)
            say(f"hub          {file}   return {score.mean:,.1f} +/- {score.returns.std():,.1f}")
            say(f"             to publish it: hf upload USER/MODEL {file}")
        else:
            worst = WRITERS[kind](agent, k, file)
            say(f"{kind:12} {file}   {file.stat().st_size:,} bytes, differs by at most {worst:.1e}")
