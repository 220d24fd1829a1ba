"""Whether this machine has the memory, or the disk, for what is asked, before it is taken."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import torch

from policykd.core.errors import PolicyKDError


def require_memory(nbytes: int, what: str, setting: str, device: torch.device | str = "cpu") -> None:
    """Refuse what the machine, or its GPU, cannot hold.

    Args:
        nbytes: bytes that it takes.
        what: what takes them, such as "2 learners x 1,000,000 transitions".
        setting: what to lower.
        device: where; of devices that are neither the processor nor CUDA nothing is known.

    Raises:
        PolicyKDError: there is less memory.
    """
    device = torch.device(device)
    if device.type == "cuda":
        there, most = "this GPU has", torch.cuda.get_device_properties(device).total_memory
    elif device.type == "cpu":
        machine, allowed = physical_memory(), memory_limit()
        there, most = "this machine has" if machine <= allowed else "this job may take", min(machine, allowed)
    else:
        return
    if nbytes > most:
        raise PolicyKDError(
            f"memory: {what} need {nbytes / 1e9:,.1f} GB, {there} {most / 1e9:,.1f} GB: lower {setting}"
        )


def require_disk(nbytes: int, place: Path, what: str, setting: str) -> None:
    """Refuse what the disk cannot hold.

    Args:
        nbytes: bytes that it takes.
        place: in which folder, which need not be there yet.
        what: what takes them.
        setting: what to lower.

    Raises:
        PolicyKDError: the disk has less room.
    """
    there = next(folder for folder in (place.absolute(), *place.absolute().parents) if folder.is_dir())
    free = shutil.disk_usage(there).free
    if nbytes > free:
        raise PolicyKDError(
            f"disk: {what} need {nbytes / 1e9:,.1f} GB, and {there} has {free / 1e9:,.1f} GB: lower {setting}"
        )


def physical_memory() -> int:
    """Bytes of memory in this machine."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError, AttributeError):  # not known here: let the allocation decide
        return 2**63


def memory_limit(groups: Path = Path("/proc/self/cgroup"), root: Path = Path("/sys/fs/cgroup")) -> int:
    """Bytes that Linux lets this job take (control groups, as Slurm, Docker and Kubernetes use them).

    Args:
        groups: the file that says in which groups this process is.
        root: where the groups' limits are.
    """
    limits = [2**63]
    try:
        lines = [line.split(":", 2) for line in groups.read_text(encoding="utf-8").splitlines()]
    except OSError:  # no Linux
        return limits[0]
    for _, controllers, path in (line for line in lines if len(line) == 3):
        if controllers not in ("", "memory"):
            continue
        base, file = (root, "memory.max") if not controllers else (root / "memory", "memory.limit_in_bytes")
        folder = base / path.lstrip("/")
        for place in (folder, *folder.parents):
            if place.is_relative_to(base):
                limits.append(_number(place / file))
    return min(limits)


def _number(file: Path) -> int:
    """The number in a file; without bound where there is none, or "max"."""
    try:
        return int(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return 2**63
