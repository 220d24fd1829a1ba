"""Handles a run that fails: saves the learners, and says in one line how to go on."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path

from policykd.core.errors import PolicyKDError
from policykd.core.files import write_text
from policykd.core.lock import locked
from policykd.training.run_folder import RunFolder, resume_advice

STOPPED, ERROR = "stopped.safetensors", "error.txt"


@contextmanager
def save_on_failure(folder: RunFolder | None, save: Callable[[Path], None], steps: Callable[[], int]) -> Iterator[None]:
    """Be the only writer of the run's folder; where training fails, keep the learners and say how to go on.

    What is refused before the first step leaves nothing behind.

    The learners go into a file of their own: a step that failed half way cannot be gone on from bit by bit, the
    checkpoint can.

    Args:
        folder: of the run; None writes nothing.
        save: writes the learners into a file.
        steps: how many were taken so far.

    Raises:
        PolicyKDError: another process writes into the folder, or it was deleted; or training failed by the environment
            or a file.
    """
    before = steps()
    if folder is not None:
        folder.check()  # the lock would make it anew
    with nullcontext() if folder is None else locked(folder.path):
        try:
            yield
        except (PolicyKDError, OSError) as error:
            if folder is None or (isinstance(error, OSError) and not error.filename):
                raise  # of no file: the reader of what a worker prints is gone
            if isinstance(error, PolicyKDError) and error.__cause__ is None and steps() == before:
                raise
            raise PolicyKDError(f"{_line(error, folder)}; {_keep(folder, save, error)}") from error.__cause__


def _line(error: Exception, folder: RunFolder) -> str:
    """An error as one line, with the file's name where it is of a file."""
    if not folder.path.is_dir():
        return f"run folder: {folder.path} was deleted during the run"
    if isinstance(error, OSError) and error.filename:
        return f"cannot write {error.filename}: {error.strerror}"
    return " ".join(str(error).split())


def _keep(folder: RunFolder, save: Callable[[Path], None], error: Exception) -> str:
    """Save what can be saved; returns where it is and how to go on."""
    kept = "the learners could not be saved"
    with suppress(PolicyKDError, OSError):
        save(folder.path / STOPPED)
        kept = f"the learners are in {folder.path / STOPPED}"
    if error.__cause__ is not None:
        with suppress(OSError):
            write_text(folder.path / ERROR, "".join(traceback.format_exception(error.__cause__)))
            kept = f"traceback in {folder.path / ERROR}; {kept}"
    if folder.checkpoint.exists():
        return f"{kept}; resume from the last checkpoint with {resume_advice()}"
    return f"{kept}; there is no checkpoint: start a new run"
