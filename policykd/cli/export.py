"""``policykd export``: a learner of a run in the formats that people deploy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro

from policykd.cli.options import parse

Format = Literal["sb3", "onnx", "torchscript", "hub", "c", "c-int8", "onnx-int8"]
FILES: dict[Format, str] = {
    "sb3": "{task}.zip",
    "onnx": "{task}.onnx",
    "torchscript": "{task}.pt",
    "hub": "hub",
    "c": "{task}_c",
    "c-int8": "{task}_c_int8",
    "onnx-int8": "{task}_int8.onnx",
}
"""What each format is called in the folder."""


@dataclass(frozen=True)
class ExportOptions:
    """Write a learner of a run in the formats that people deploy, each checked against the learner."""

    path: tyro.conf.Positional[Path]
    """A run folder or a saved agent."""
    env: str | None = None
    """Its task, where that is of a module of your own, such as my_tasks:Task-v0, which is imported."""
    format: tuple[Format, ...] = ("sb3", "onnx", "torchscript", "hub")
    """sb3: a zip of Stable-Baselines3; onnx, torchscript: one file each; hub: a folder for the Hugging Face Hub; c: a
    folder of one header and one C file; c-int8, onnx-int8: the same in int8. Default: what the learner can have of the
    first four."""
    out: Path = Path("exported")
    """The folder to write to. Files that exist are never replaced."""
    inputs: Literal["own", "full"] = "own"
    """What files read of a student that sees a part of the observation: its own part, or the full one of the task
    (onnx, torchscript and c, also in int8)."""
    learner: int | Literal["best"] = "best"
    """Index of the learner, or best."""
    n_eval_episodes: int = 20
    """Episodes for the Hub's model card."""
    states: Path | None = None
    """int8: a .npy file of observations (n, O), such as the file reads, to calibrate on; of a file with a state one
    episode in its order. Default: the learner plays its task."""
    seed: int = 1_000_000
    """Seed of these episodes' initial states, and of the replay."""
    video: bool = True
    """Record a replay for the Hub."""


def read(words: Sequence[str]) -> ExportOptions:
    """Options of ``export``."""
    return parse(ExportOptions, words, "export")
