"""Resuming a run: from its checkpoint, or from the start where it was killed before the first one."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from policykd.core.errors import PolicyKDError
from policykd.core.files import CHECKPOINT
from policykd.core.lock import LOCK, alone
from policykd.core.parsing import parse_json, read_text
from policykd.training.run_folder import CONFIG, holds_nothing
from policykd.training.snapshot import check_same

OPTIONS = "options.json"
"""What a command was asked for whose run is made of several."""


@contextmanager
def resuming(path: Path | None, asked: dict[str, Any]) -> Iterator[Path | None]:
    """Hold the folder of a run to go on with, so that no other process writes into it.

    Args:
        path: the folder. One that does not exist, or is empty, is of a job that was killed before it wrote anything.
        asked: the settings of the run that shall go on.

    Yields:
        The checkpoint. Where there is none, the folder is empty by now: the same run begins anew.

    Raises:
        PolicyKDError: no folder is named, another process writes into it, it holds something else, or a run that was
            made with other settings.
    """
    if path is None:
        raise PolicyKDError("resume: say which run with --run-dir")
    if not path.exists():
        yield None
        return
    if not path.is_dir():
        raise PolicyKDError(f"resume: {path} is no folder of a run")
    with alone(path):
        if (path / CHECKPOINT).exists():
            yield path / CHECKPOINT
        else:
            clear(path, asked)
            yield None


def clear(path: Path, asked: dict[str, Any]) -> None:
    """Empty the folder of a run that has no checkpoint; its config goes last, so that this can be repeated.

    Raises:
        PolicyKDError: the folder holds something else, or a run that was made with other settings.
    """
    if holds_nothing(path):
        return
    try:
        saved = parse_json(read_text(path / CONFIG))
    except (OSError, ValueError):
        raise PolicyKDError(f"resume: {path} holds no run of policykd (no {CONFIG}): choose another folder") from None
    check_same(saved, asked)
    for entry in sorted(path.iterdir(), key=lambda entry: entry.name == CONFIG):
        if entry.is_dir():
            shutil.rmtree(entry)
        elif entry.name != LOCK:
            entry.unlink()


def check_options(folder: Path, command: str, now: dict[str, Any]) -> None:
    """Refuse to go on with other options than the run of a command began with.

    Raises:
        PolicyKDError: they differ, or the folder holds something else.
    """
    try:
        saved = parse_json(read_text(folder / OPTIONS))
    except (OSError, ValueError) as error:
        raise PolicyKDError(f"resume: {folder} is not a run of policykd {command}: {error}") from None
    changed = [
        f"{name} was {saved.get(name)!r}, now {value!r}" for name, value in now.items() if saved.get(name) != value
    ]
    if changed:
        raise PolicyKDError(f"resume: the run was made with other settings: {'; '.join(changed)}")
