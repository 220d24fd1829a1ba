"""One writer per folder, by a lock that the operating system releases when its process ends, even if killed."""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from policykd.core.errors import PolicyKDError

LOCK = ".lock"
_held: set[Path] = set()
"""Locks held by this process, which are reentrant."""


@contextmanager
def locked(folder: Path, timeout: float = 0) -> Iterator[None]:
    """Lock a folder against other processes.

    Args:
        folder: an existing folder.
        timeout: seconds to wait for another process.

    Raises:
        PolicyKDError: another process, which the error names, holds the lock; or the folder is not writable.
    """
    path = folder.resolve() / LOCK
    if path in _held:
        yield
        return
    lock = FileLock(path)
    try:
        lock.acquire(timeout=timeout)
    except Timeout:
        raise PolicyKDError(
            f"run folder: {folder} is in use{_holder(path)}: wait until that ends, or choose another folder"
        ) from None
    except OSError as error:
        raise PolicyKDError(f"run folder: cannot write {folder}: {error.strerror}: choose another one") from None
    _held.add(path)
    try:
        with suppress(OSError):  # a full disk; the lock works anyway
            path.write_text(json.dumps({"pid": os.getpid(), "host": socket.gethostname(), "since": time.time()}))
        yield
    finally:
        _held.discard(path)
        with suppress(OSError):  # the folder may be gone
            path.unlink()  # before the release: filelock never locks an unlinked file
        lock.release()


def _holder(path: Path) -> str:
    """Describe the holder of a lock, as far as its file says."""
    try:
        holder = json.loads(path.read_text(encoding="utf-8"))
        since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(holder["since"]))
        return f" by process {holder['pid']} on {holder['host']} since {since}"
    except (OSError, ValueError, KeyError, TypeError, OverflowError):
        return " by another process"
