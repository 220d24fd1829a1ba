"""Files that are written whole or not at all, and what a run was made with."""

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
"""What a run folder goes on from."""
OPTIONS = "options.json"
"""What a command was asked for whose run is made of several."""
STEPS = "time/total_timesteps"
"""The column of a log that counts environment steps, as SB3 names it."""


def csv_text(rows: Iterable[Iterable[Any]]) -> str:
    """Rows as the text of a CSV file, the header first; lines end as on Unix."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


def write_text(path: Path, text: str) -> None:
    """Write a file whole or not at all; what is no Unicode, as in names of files, is escaped."""
    write_bytes(path, text.encode(errors="backslashreplace"))


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file whole or not at all.

    Raises:
        OSError: it cannot be written; what was there before is untouched.
    """
    with writing(path) as file:
        file.write(content)


def as_path(what: str, given: str | os.PathLike[str]) -> Path:
    """A place that a user names.

    Raises:
        PolicyKDError: it is no path; ``what`` it is of begins the line.
    """
    if not isinstance(given, str | os.PathLike) or not os.fspath(given):  # Path("") would be the working folder
        raise PolicyKDError(f"{what}: {given!r:.200} is no path: give a str or a pathlib.Path")
    return Path(given)


def file_path(what: str, given: str | os.PathLike[str], example: str) -> Path:
    """A file that a user names, where one such as ``example`` is needed.

    Raises:
        PolicyKDError: it is no path, or names no file; ``what`` it is of begins the line.
    """
    path = as_path(what, given)
    if path.name in ("", ".."):
        raise PolicyKDError(f"{what}: {path} is a folder: name a file, such as {path / example}")
    return path


def checkpoint_path(path: str | Path) -> Path:
    """The file that an agent is saved in: ``path``, with ``.safetensors`` if it has no ending.

    Raises:
        PolicyKDError: it names no file.
    """
    path = file_path("checkpoint", path, "agent.safetensors")
    check_unicode(path)
    return path if path.suffix else path.with_suffix(".safetensors")


def check_unicode(path: Path) -> None:
    """Refuse a place in which safetensors could not read a file.

    Raises:
        PolicyKDError: its name is no Unicode.
    """
    try:
        str(path).encode()
    except UnicodeEncodeError:
        raise PolicyKDError(f"{str(path)!a} is no name in UTF-8: choose another one") from None


def file_above(path: Path) -> Path | None:
    """The file that is where ``path`` needs a folder; None where there is none."""
    return next((above for above in path.parents if above.is_file()), None)


@contextmanager
def writing(path: Path) -> Iterator[BinaryIO]:
    """A file to write to, which takes its name when it is whole, and leaves nothing behind if it never is.

    Raises:
        OSError: it cannot be written; the error names the file, and what was there before is untouched.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with naming(path):
            with open(temporary, "wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
    finally:
        with suppress(OSError):  # it has its name, or the folder is gone
            temporary.unlink()


@contextmanager
def placing(path: Path) -> Iterator[Path]:
    """Where to make a file or folder that moves to ``path`` when it is whole; else nothing is left, nor new parents.

    Raises:
        OSError: it cannot be made there; the error names ``path``.
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
            with suppress(OSError):  # another process writes there, too
                parent.rmdir()
        if isinstance(error, OSError) and error.errno and temporary in str(error.filename or temporary):
            raise OSError(error.errno, error.strerror, str(path)) from None
        raise


def is_unfinished(path: Path) -> bool:
    """Whether a file has the name that ``writing`` gives it until it is whole."""
    return re.fullmatch(r"\..+\.\d+\.tmp", path.name) is not None


def remove_unfinished(*folders: Path) -> None:
    """Remove what processes left in folders that were killed while they wrote; nobody may be writing there now."""
    for file in [file for folder in folders if folder.is_dir() for file in folder.iterdir()]:
        if is_unfinished(file):
            file.unlink(missing_ok=True)


@contextmanager
def naming(path: Path | str) -> Iterator[None]:
    """Give errors of the operating system the file's name: a full disk does not say which file it has no room for."""
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, error.strerror or str(error), str(path)) from None


def versions() -> dict[str, Any]:
    """What the run was made with: packages, Python, machine, and the commit of policykd's source.

    ``git_changed_files`` counts what that checkout has beside the commit, but for ``results``, which grow as they are
    written. Both are None where the source is of no checkout, such as an installed package in another project's.
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
