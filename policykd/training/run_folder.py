"""A run on disk: what was asked, with what it was made, and one folder per learner laid out as SB3 and its zoo do.

run/
  config.json  command.txt  versions.json     what was asked and with what it ran
  checkpoint.safetensors                       where to go on from
  progress.csv  events.out.tfevents...         means over the learners
  dpd-ddpg/HalfCheetah-v5_1/                   learner 1 (the zoo's <algorithm>/<task>_<number>)
    progress.csv  events.out...  monitor.csv  evaluations.npz  best_model.zip  (HalfCheetah-v5/vecnormalize.pkl)
"""

from __future__ import annotations

import io
import json
import os
import shlex
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.logger import Logger

from policykd.core.errors import PolicyKDError
from policykd.core.files import (
    CHECKPOINT,
    as_path,
    blocking_file,
    check_unicode,
    is_unfinished,
    remove_unfinished,
    versions,
    write_bytes,
    write_text,
)
from policykd.core.lock import LOCK, locked
from policykd.core.normaliser import pickle_for_inference
from policykd.training import progress_csv
from policykd.training.progress_csv import open_logger

CONFIG = "config.json"


class RunFolder:
    """The files of one run.

    Args:
        path: the run's folder.
        algorithm: method and backbone, e.g. ``dpd-ddpg``.
        env_id: the task.
        learners: number of learners.
    """

    def __init__(self, path: str | Path, algorithm: str, env_id: str, learners: int) -> None:
        self.path = as_path("run_dir", path)
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
        there = self.path.exists()
        check_free(self.path)
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._remove_unfinished()
            write_text(self.path / CONFIG, json.dumps(settings, indent=2) + "\n")
            write_text(self.path / "command.txt", shlex.join([Path(sys.executable).name, *sys.argv]) + "\n")
            write_text(self.path / "versions.json", json.dumps(versions(), indent=2) + "\n")
            self._make_folders()
        except OSError as error:
            if not there:
                shutil.rmtree(self.path, ignore_errors=True)
            raise PolicyKDError(f"run folder: cannot write {error.filename or self.path}: {error.strerror}") from None

    def check(self) -> None:
        """Check that the folder still exists.

        Raises:
            PolicyKDError: somebody deleted it.
        """
        if not self.path.is_dir():
            raise PolicyKDError(f"run folder: {self.path} was deleted during the run")

    def open_loggers(self) -> Logger:
        """Open every learner's logs and return the logger of the run itself."""
        # In place: who holds the list already must see them, or the first row is written to no learner's log.
        self.loggers[:] = [open_logger(folder) for folder in self.learner_folders]
        return open_logger(self.path)

    def log_sizes(self) -> dict[str, int]:
        """Bytes of every log that only grows, lines of every table: where to cut when a run goes on from here."""
        sizes = {str(file.relative_to(self.path)): file.stat().st_size for file in self._growing_logs()}
        return sizes | {str(file.relative_to(self.path)): progress_csv.lines(file) for file in self._progress()}

    def rewind(self, sizes: dict[str, int], num_timesteps: int) -> None:
        """Truncate the logs to the checkpoint, after which a killed run may have gone on for a while.

        Raises:
            PolicyKDError: it does go on, in another process.
        """
        with locked(self.path):
            self._rewind(sizes, num_timesteps)

    def _rewind(self, sizes: dict[str, int], num_timesteps: int) -> None:
        self._make_folders()
        self._remove_unfinished()
        for file in self._growing_logs():
            size = sizes.get(str(file.relative_to(self.path)))
            if size is None:
                file.unlink()
            elif file.stat().st_size > size:
                os.truncate(file, size)
        for file in self._progress():
            progress_csv.rewind(file, num_timesteps, sizes.get(str(file.relative_to(self.path))))

    def write_evaluations(
        self, k: int, name: str, timesteps: list[int], returns: np.ndarray, lengths: np.ndarray
    ) -> None:
        """Learner k's evaluations in SB3's format: ``(E,)``, ``(E, n)`` and ``(E, n)``."""
        buffer = io.BytesIO()
        np.savez(buffer, timesteps=np.array(timesteps, np.int64), results=returns, ep_lengths=lengths)
        write_bytes(self.learner_folders[k] / name, buffer.getvalue())

    def save_model(self, k: int, model: BaseAlgorithm, settings: dict[str, str]) -> None:
        """Keep ``model`` as learner k's ``best_model.zip``, and what SB3's zoo reads to play it in the zoo's place.

        Args:
            k: which learner.
            model: the learner as a model of SB3.
            settings: the zoo's files by name (``export.zoo_settings``).
        """
        buffer, folder = io.BytesIO(), self.learner_folders[k]
        model.save(buffer)
        write_bytes(folder / "best_model.zip", buffer.getvalue())
        (folder / self.task).mkdir(exist_ok=True)
        for name, text in settings.items():
            write_text(folder / self.task / name, text)
        normalizer = model.get_vec_normalize_env()
        if normalizer is not None:  # SB3 reads a pickle; policykd never does
            write_bytes(folder / self.task / "vecnormalize.pkl", pickle_for_inference(normalizer))

    def _make_folders(self) -> None:
        for folder in self.learner_folders:
            folder.mkdir(parents=True, exist_ok=True)

    def _remove_unfinished(self) -> None:
        remove_unfinished(self.path, *self.learner_folders, *(folder / self.task for folder in self.learner_folders))

    def _progress(self) -> list[Path]:
        return [folder / "progress.csv" for folder in (self.path, *self.learner_folders)]

    def _growing_logs(self) -> list[Path]:
        folders = (self.path, *self.learner_folders)
        return [file for folder in folders for name in ("*tfevents*", "*monitor.csv") for file in folder.glob(name)]


def resume_advice(load: str = "load()") -> str:
    """How to go on with a run, for who began it in Python or a script, and on the command line."""
    return f"{load} in Python, or --resume of the command policykd"


def check_free(path: Path) -> None:
    """Refuse a folder that holds something already, or that cannot be made where a file is in the way, or read back.

    Raises:
        PolicyKDError: names the folder.
    """
    check_unicode(path)
    if path.exists() and not (path.is_dir() and is_empty_folder(path)):
        raise PolicyKDError(
            f"run folder: {path} exists and is not empty: choose another one, or resume with {resume_advice()}"
        )
    if (file := blocking_file(path)) is not None:
        raise PolicyKDError(f"run folder: {path} cannot be made: {file} is a file")


def is_empty_folder(path: Path) -> bool:
    """Whether a folder holds no file, or only what a process left that was killed while it wrote its first."""
    return not any(file.is_file() and file.name != LOCK and not is_unfinished(file) for file in path.rglob("*"))
