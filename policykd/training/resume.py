"""Starting and resuming runs: from a checkpoint, or from scratch if a run was killed before its first one."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from policykd.core.errors import PolicyKDError
from policykd.core.files import CHECKPOINT, OPTIONS, remove_unfinished, write_text
from policykd.core.lock import LOCK, locked
from policykd.core.parsing import parse_json, read_text
from policykd.training.run_folder import CONFIG, check_free, is_empty_folder
from policykd.training.snapshot import check_same


def check_named(run_dir: Path | None, resume: bool) -> None:
    """Raise if a run is to be resumed without naming its folder.

    Raises:
        PolicyKDError: names the option.
    """
    if resume and run_dir is None:
        raise PolicyKDError("resume: name the run with --run-dir")


@contextmanager
def resuming(path: Path | None, asked: dict[str, Any]) -> Iterator[Path | None]:
    """Lock the folder of a run that is being resumed, so that no other process writes into it.

    Args:
        path: the folder. If missing or empty, the job was killed before it wrote anything.
        asked: the settings of the run to resume.

    Yields:
        The checkpoint; None starts the same run from scratch, in a folder that is empty by then.

    Raises:
        PolicyKDError: no folder is named, another process writes into it, it holds something else, or a run that was
            made with other settings.
    """
    check_named(path, resume=True)
    assert path is not None
    if not path.exists():
        yield None
        return
    if not path.is_dir():
        raise PolicyKDError(f"resume: {path} is not a run folder")
    with locked(path):
        if (path / CHECKPOINT).exists():
            if not (path / CONFIG).is_file():  # without it the file is not taken for that of a run
                raise PolicyKDError(
                    f"resume: {path} has a checkpoint but no {CONFIG}: restore that file, or choose another folder"
                )
            yield path / CHECKPOINT
        else:
            clear(path, asked)
            yield None


def clear(path: Path, asked: dict[str, Any]) -> None:
    """Empty the folder of a run that has no checkpoint; its config goes last, so that this can be repeated.

    Raises:
        PolicyKDError: the folder holds something else, or a run that was made with other settings.
    """
    if is_empty_folder(path):
        return
    try:
        saved = parse_json(read_text(path / CONFIG))
    except (OSError, ValueError):
        raise PolicyKDError(
            f"resume: {path} is not a run of policykd (it has no {CONFIG}): choose another folder"
        ) from None
    check_same(saved, asked)
    for entry in sorted(path.iterdir(), key=lambda entry: entry.name == CONFIG):
        if entry.is_dir():
            shutil.rmtree(entry)
        elif entry.name != LOCK:
            entry.unlink()


def command_folder(run_dir: Path | None, resume: bool, default: Path) -> Path:
    """The folder of a run of a command, made before anything is computed: a path that cannot be one is found at once.

    Args:
        run_dir: the folder that is asked for.
        resume: whether it may hold a run to go on with.
        default: the folder where none is asked for.

    Raises:
        PolicyKDError: it is not named, not free, or cannot be made.
    """
    check_named(run_dir, resume)
    folder = run_dir or default
    if not (resume and folder.is_dir()):
        check_free(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise PolicyKDError(f"run folder: cannot make {folder}: {error.strerror}: choose another one") from None
    return folder


def save_options(folder: Path, command: str, options: Any, *free: str) -> None:
    """Write what a command was asked for into a new folder, or see that the same was asked for before.

    What processes left there that were killed while they wrote is removed.

    Args:
        folder: of the run; no other process writes into it.
        command: the command.
        options: dataclass of its options.
        free: options that another call may change, beside the folder and ``resume``.

    Raises:
        PolicyKDError: other options were asked for, or the folder holds something else.
    """
    asked = {**dataclasses.asdict(options), **dict.fromkeys(("run_dir", "resume", *free))}
    text = json.dumps(asked, indent=2, default=str) + "\n"
    if is_empty_folder(folder):
        write_text(folder / OPTIONS, text)
    else:
        try:
            saved, now = parse_json(read_text(folder / OPTIONS)), json.loads(text)
        except (OSError, ValueError) as error:
            raise PolicyKDError(f"resume: {folder} is not a run of policykd {command}: {error}") from None
        check_same(saved, now)
    remove_unfinished(folder, *folder.iterdir())
