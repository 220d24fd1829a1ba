"""Atomic writing of files, and the versions a run was made with."""

from __future__ import annotations

import csv
import io
import os
import platform
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from importlib import metadata
from pathlib import Path
from typing import Any, BinaryIO

from policykd.core.errors import PolicyKDError

CHECKPOINT = "checkpoint.safetensors"
"""Checkpoint in a run folder, from which the run resumes."""
OPTIONS = "options.json"
"""Options of a command that consists of several runs."""
STEPS = "time/total_timesteps"
"""Log column of environment steps, named as in SB3."""


def csv_text(rows: Iterable[Iterable[Any]]) -> str:
    """Format rows, header first, as CSV with Unix line endings."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically; invalid Unicode, as in file names, is escaped."""
    write_bytes(path, text.encode(errors="backslashreplace"))


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file atomically.

    Raises:
        OSError: it cannot be written; an existing file is unchanged.
    """
    with atomic_file(path) as file:
        file.write(content)


def as_path(what: str, given: str | os.PathLike[str]) -> Path:
    """Validate a path given by a user.

    Raises:
        PolicyKDError: it is not a path; the error starts with ``what``.
    """
    if not isinstance(given, str | os.PathLike) or not os.fspath(given):  # Path("") would be the current folder
        raise PolicyKDError(f"{what}: {given!r:.200} is not a path: give a str or a pathlib.Path")
    return Path(given)


def file_path(what: str, given: str | os.PathLike[str], example: str) -> Path:
    """Validate a file path given by a user; ``example`` is suggested in errors.

    Raises:
        PolicyKDError: it is not a path, or has no file name; the error starts with ``what``.
    """
    path = as_path(what, given)
    if path.name in ("", ".."):
        raise PolicyKDError(f"{what}: {path} is a folder: name a file, such as {path / example}")
    return path


def checkpoint_path(path: str | Path) -> Path:
    """The file in which to save an agent: ``path``, with the suffix ``.safetensors`` if it has none.

    Raises:
        PolicyKDError: it has no file name.
    """
    path = file_path("checkpoint", path, "agent.safetensors")
    check_unicode(path)
    return path if path.suffix else path.with_suffix(".safetensors")


def check_unicode(path: Path) -> None:
    """Refuse a path that safetensors could not read.

    Raises:
        PolicyKDError: it is not valid Unicode.
    """
    try:
        str(path).encode()
    except UnicodeEncodeError:
        raise PolicyKDError(f"{str(path)!a} is not a valid UTF-8 name: choose another one") from None


def blocking_file(path: Path) -> Path | None:
    """A file that stands where ``path`` needs a folder, if any."""
    return next((above for above in path.parents if above.is_file()), None)


@contextmanager
def atomic_file(path: Path) -> Iterator[BinaryIO]:
    """Open a temporary file that is renamed to ``path`` once complete, and removed on failure.

    Raises:
        OSError: it cannot be written; the error names the file, and an existing one is unchanged.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with add_filename(path):
            with open(temporary, "wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
    finally:
        with suppress(OSError):  # it was renamed, or the folder is gone
            temporary.unlink()


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary path that is renamed to ``path`` once complete; on failure it and new parents are removed.

    Raises:
        OSError: it cannot be created; the error names ``path``.
    """
    new = [parent for parent in path.parents if not parent.exists()]
    temporary = f".{path.name}."
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=temporary) as folder:
            yield Path(folder, path.name)
            shutil.move(Path(folder, path.name), path)
    except BaseException as error:
        for parent in new:
            with suppress(OSError):  # another process writes there too
                parent.rmdir()
        if isinstance(error, OSError) and error.errno and temporary in str(error.filename or temporary):
            raise OSError(error.errno, error.strerror, str(path)) from None
        raise


def is_unfinished(path: Path) -> bool:
    """Whether a file has a temporary name from ``atomic_file``."""
    return re.fullmatch(r"\..+\.\d+\.tmp", path.name) is not None


def remove_unfinished(*folders: Path) -> None:
    """Remove temporary files of killed processes; no process may be writing to these folders."""
    for file in [file for folder in folders if folder.is_dir() for file in folder.iterdir()]:
        if is_unfinished(file):
            file.unlink(missing_ok=True)


@contextmanager
def add_filename(path: Path | str) -> Iterator[None]:
    """Add the file name to OSErrors without one, such as those of a full disk."""
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, error.strerror or str(error), str(path)) from None


def versions() -> dict[str, Any]:
    """Versions of packages and Python, the machine, and the commit of policykd's source.

    ``git_changed_files`` counts uncommitted files of the checkout, except ``results``, which runs write to. Both are
    None if the source is not in its own checkout, such as a package installed inside another project.
    """
    packages = ("policykd", "torch", "numpy", "gymnasium", "mujoco", "stable-baselines3", "safetensors")
    found = {}
    for name in packages:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "not installed"
    tracked = _git("ls-files", Path(__file__).name)
    changed = _git("status", "--porcelain", "--", ":(top)", ":(top,exclude)results") if tracked else None
    return {
        "python": platform.python_version(),
        "packages": found,
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
        "git_commit": _git("rev-parse", "HEAD") if tracked else None,
        "git_changed_files": None if changed is None else len(changed.splitlines()),
    }


def _git(*arguments: str) -> str | None:
    source = Path(__file__).resolve().parent
    try:
        result = subprocess.run(["git", "-C", str(source), *arguments], capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return result.stdout.strip() if result.returncode == 0 else None
