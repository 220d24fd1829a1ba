"""Runs small enough for tests, and ways to look at what they left."""

import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from torch import Tensor

from policykd.core import checkpoint

POINT = "PolicyKD/PointReach-v0"
TINY: dict[str, Any] = {
    "net_arch": (8, 8),
    "batch_size": 8,
    "distill_batch_size": 8,
    "buffer_size": 200,
    "learning_starts": 20,
    "n_eval_episodes": 1,
    "log_freq": 50,
}
CLOCK = ["time/fps", "time/time_elapsed"]
"""What two equal runs log differently."""


def flags(**changes: Any) -> list[str]:
    """The command line's flags for TINY with some settings changed."""
    words = []
    for name, value in {**TINY, **changes}.items():
        values = value if isinstance(value, tuple) else (value,)
        words += [f"--{name.replace('_', '-')}", *map(str, values)]
    return words


def start(*arguments: str, **options: Any) -> subprocess.Popen[str]:
    """The command ``policykd`` as a process of its own; Ctrl-C reaches it also where tests run in the background."""
    command = [sys.executable, "-m", "policykd", *arguments]
    options["preexec_fn"] = lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)  # a shell's & makes children deaf
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options)


def logged_steps(folder: Path) -> int:
    """The last step in a run's progress.csv, which may be half written at the moment; 0 where there is none."""
    file = folder / "progress.csv"
    lines = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
    column = lines[0].split(",").index("time/total_timesteps") if len(lines) > 1 else 0
    cells = lines[-1].split(",") if len(lines) > 1 else []
    return int(cells[column]) if len(cells) > column and cells[column].isdigit() else 0


def progress(folder: Path) -> pd.DataFrame:
    """A progress.csv as the text that is in it, without the clock's columns."""
    return pd.read_csv(folder / "progress.csv", dtype=str).drop(columns=CLOCK, errors="ignore")


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, to see that nothing was lost, added or overwritten."""
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def differences(first: Any, second: Any, path: str = "") -> Iterator[str]:
    """The paths at which two nested states are not the same bit by bit."""
    first, second = (value.numpy() if isinstance(value, Tensor) else value for value in (first, second))
    if type(first) is not type(second):
        yield path
    elif isinstance(first, dict):
        for key in first.keys() | second.keys():
            yield from differences(first.get(key), second.get(key), f"{path}/{key}")
    elif isinstance(first, list):
        if len(first) != len(second):
            yield path
        for index, pair in enumerate(zip(first, second, strict=False)):
            yield from differences(*pair, f"{path}/{index}")
    elif isinstance(first, np.ndarray):
        if (first.dtype, first.shape, first.tobytes()) != (second.dtype, second.shape, second.tobytes()):
            yield path
    elif repr(first) != repr(second):  # the text of a float is exact, and NaN is itself
        yield path


CLOCKS = {"elapsed", "evaluation_seconds", "t_start", "episode_times", "t", "log_sizes"}
"""What of a state tells the time: seconds, and lengths of logs with seconds in them."""


def unlike(folder, whole, again):
    """Where two agents differ that are saved whole, but for clocks and for what tells how often ``learn`` was called.

    The last call of each ``learn`` ends in an evaluation, and has its own span for schedules.
    """
    for name, agent in (("whole", whole), ("again", again)):
        agent.save(folder / name, include_replay=True)
    states = [checkpoint.load(folder / f"{name}.safetensors") for name in ("whole", "again")]
    own = CLOCKS | {"evaluations", "evaluation_steps", "span"}
    return [path for path in differences(*states) if not own & set(path.split("/"))]
