"""``policykd export``: export a learner of a run to deployment formats."""

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
"""File or folder name of each format."""


@dataclass(frozen=True)
class ExportOptions:
    """Export a learner of a run to deployment formats, each checked against the learner."""

    path: tyro.conf.Positional[Path]
    """A run folder or a saved agent."""
    env: str | None = None
    """Its task, if registered by your own module, which is imported: my_tasks:Task-v0."""
    format: tuple[Format, ...] = ("sb3", "onnx", "torchscript", "hub")
    """sb3: a zip of Stable-Baselines3; onnx, torchscript: one file each; hub: a folder for the Hugging Face Hub; c: a
    folder of one header and one C file; c-int8, onnx-int8: the same in int8. Default: those of the first four that the
    learner supports."""
    out: Path = Path("exported")
    """The folder to write to. Files that exist are never replaced."""
    inputs: Literal["own", "full"] = "own"
    """Input of the file for a student that sees part of the observation: that part, or the task's full observation
    (onnx, torchscript and c, also in int8)."""
    learner: int | Literal["best"] = "best"
    """Index of the learner, or best."""
    n_eval_episodes: int = 20
    """Episodes for the Hub's model card."""
    states: Path | None = None
    """int8: a .npy file of observations (n, O) to calibrate on, in the format of the file's input; for a policy with
    memory one episode in order. Default: the learner plays its task."""
    seed: int = 1_000_000
    """Seed of these episodes' initial states, and of the video."""
    video: bool = True
    """Record a video for the Hub."""


def read(words: Sequence[str]) -> ExportOptions:
    """Parse the options of ``export``."""
    return parse(ExportOptions, words, "export")
