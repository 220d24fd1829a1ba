"""A run on disk: what was asked, with what it was made, and one folder per learner laid out as SB3 and its zoo do.

run/
  config.json  command.txt  versions.json     what was asked and with what it ran
  checkpoint.safetensors                       where to go on from
  progress.csv  events.out.tfevents...         means over the learners
  dpd-ddpg/HalfCheetah-v5_1/                   learner 1 (the zoo's <algorithm>/<task>_<number>)
    progress.csv  events.out...  monitor.csv  evaluations.npz  best_model.zip  (HalfCheetah-v5/vecnormalize.pkl)
"""

from __future__ import annotations

import csv
import io
import json
import os
import pickle
import shlex
import sys
from pathlib import Path
from typing import Any

import numpy as np
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.logger import CSVOutputFormat, KVWriter, Logger, TensorBoardOutputFormat

from policykd.core.errors import PolicyKDError
from policykd.core.files import versions, write_bytes, write_text

CHECKPOINT = "checkpoint.safetensors"
STEPS = "time/total_timesteps"


class ProgressCSV(CSVOutputFormat):
    """SB3's ``progress.csv``, which can also go on from the rows that are there."""

    def __init__(self, path: Path) -> None:
        self.file = open(path, "a+")  # noqa: SIM115  (closed with the logger)
        self.file.seek(0)
        header = self.file.readline().strip()
        self.keys = header.split(",") if header else []
        self.file.seek(0, os.SEEK_END)
        self.separator, self.quotechar = ",", '"'

    def write(self, key_values: dict[str, Any], key_excluded: dict[str, tuple[str, ...]], step: int = 0) -> None:
        """Write one row; new columns rewrite the file, in an order that does not depend on Python's hashes."""
        new = [key for key in sorted(key_values) if key not in self.keys]
        if new:
            self.file.seek(0)
            rows = list(csv.reader(self.file))[1:]
            self.keys += new
            self.file.seek(0)
            self.file.truncate()
            self.file.write(",".join(self.keys) + "\n")
            csv.writer(self.file, lineterminator="\n").writerows(row + [""] * len(new) for row in rows)
        super().write(key_values, key_excluded, step)


class RunFolder:
    """The files of one run.

    Args:
        path: the run's folder.
        algorithm: method and backbone, e.g. ``dpd-ddpg``.
        env_id: the task.
        learners: number of learners.
    """

    def __init__(self, path: str | Path, algorithm: str, env_id: str, learners: int) -> None:
        self.path = Path(path)
        self.task = env_id.replace("/", "-")
        self.learner_folders = [self.path / algorithm / f"{self.task}_{k + 1}" for k in range(learners)]
        self.loggers: list[Logger] = []

    @property
    def checkpoint(self) -> Path:
        """The file to go on from."""
        return self.path / CHECKPOINT

    def create(self, settings: dict[str, Any]) -> None:
        """Make the folder and write what was asked.

        Raises:
            PolicyKDError: the folder holds a run already, or cannot be made.
        """
        if self.path.exists() and (not self.path.is_dir() or any(self.path.iterdir())):
            raise PolicyKDError(
                f"run folder: {self.path} exists and is not empty: choose another one, or go on with --resume"
            )
        try:
            for folder in (self.path, *self.learner_folders):
                folder.mkdir(parents=True, exist_ok=True)
            write_text(self.path / "config.json", json.dumps(settings, indent=2) + "\n")
            write_text(self.path / "command.txt", shlex.join([Path(sys.executable).name, *sys.argv]) + "\n")
            write_text(self.path / "versions.json", json.dumps(versions(), indent=2) + "\n")
        except OSError as error:
            raise PolicyKDError(f"run folder: cannot write {self.path}: {error}") from None

    def open_loggers(self) -> Logger:
        """Open every learner's logs and return the logger of the run itself."""
        # In place: who holds the list already must see them, or the first row is written to no learner's log.
        self.loggers[:] = [_logger(folder) for folder in self.learner_folders]
        return _logger(self.path)

    def log_sizes(self) -> dict[str, int]:
        """Length of every log that only grows, to cut it back when the run goes on from a checkpoint."""
        return {str(file.relative_to(self.path)): file.stat().st_size for file in self._growing_logs()}

    def rewind(self, sizes: dict[str, int], num_timesteps: int) -> None:
        """Take back what was logged after the checkpoint: a killed run may have gone on for a while."""
        for unfinished in self.path.rglob(".*.tmp"):
            unfinished.unlink()
        for file in self._growing_logs():
            size = sizes.get(str(file.relative_to(self.path)))
            if size is None:
                file.unlink()
            elif file.stat().st_size > size:
                os.truncate(file, size)
        for folder in (self.path, *self.learner_folders):
            _rewind_csv(folder / "progress.csv", num_timesteps)

    def write_evaluations(
        self, k: int, name: str, timesteps: list[int], returns: np.ndarray, lengths: np.ndarray
    ) -> None:
        """Learner k's evaluations in SB3's format: ``(E,)``, ``(E, n)`` and ``(E, n)``."""
        buffer = io.BytesIO()
        np.savez(buffer, timesteps=np.array(timesteps, np.int64), results=returns, ep_lengths=lengths)
        write_bytes(self.learner_folders[k] / name, buffer.getvalue())

    def save_model(self, k: int, model: BaseAlgorithm) -> None:
        """Keep ``model`` as learner k's ``best_model.zip``, its ``VecNormalize`` where SB3's zoo looks for one."""
        buffer, folder = io.BytesIO(), self.learner_folders[k]
        model.save(buffer)
        write_bytes(folder / "best_model.zip", buffer.getvalue())
        normalizer = model.get_vec_normalize_env()
        if normalizer is not None:  # SB3 reads a pickle; policykd never does
            (folder / self.task).mkdir(exist_ok=True)
            write_bytes(folder / self.task / "vecnormalize.pkl", pickle.dumps(normalizer))

    def _growing_logs(self) -> list[Path]:
        folders = (self.path, *self.learner_folders)
        return [file for folder in folders for name in ("*tfevents*", "*monitor.csv") for file in folder.glob(name)]


def _logger(folder: Path) -> Logger:
    formats: list[KVWriter] = [ProgressCSV(folder / "progress.csv"), TensorBoardOutputFormat(str(folder))]
    return Logger(folder=str(folder), output_formats=formats)


def _rewind_csv(path: Path, num_timesteps: int) -> None:
    if not path.exists():
        return
    header, *rows = list(csv.reader(io.StringIO(path.read_text()))) or [[]]
    column = header.index(STEPS) if STEPS in header else 0
    kept = [row for row in rows if row[column] and int(float(row[column])) <= num_timesteps]
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([header, *kept] if header else [])
    write_text(path, text.getvalue())
