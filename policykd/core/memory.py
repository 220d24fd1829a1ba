"""Checks for enough memory or disk space before allocating."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import torch

from policykd.core.errors import PolicyKDError


def require_memory(nbytes: int, what: str, setting: str, device: torch.device | str = "cpu") -> None:
    """Refuse an allocation that exceeds the memory of the machine or its GPU.

    Args:
        nbytes: bytes to allocate.
        what: what they are for, such as "2 learners x 1,000,000 transitions".
        setting: setting to lower.
        device: device of the allocation; devices other than CPU and CUDA are not checked.

    Raises:
        PolicyKDError: there is too little memory.
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
    """Refuse a file that exceeds the free space on disk.

    Args:
        nbytes: bytes to write.
        place: folder, which need not exist yet.
        what: what they are for.
        setting: setting to lower.

    Raises:
        PolicyKDError: there is too little free space.
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
    except (ValueError, OSError, AttributeError):  # unknown: let the allocation decide
        return 2**63


def memory_limit(groups: Path = Path("/proc/self/cgroup"), root: Path = Path("/sys/fs/cgroup")) -> int:
    """Memory limit of this job in bytes on Linux (control groups, as used by Slurm, Docker and Kubernetes).

    Args:
        groups: file that lists this process's groups.
        root: folder of the groups' limits.
    """
    limits = [2**63]
    try:
        lines = [line.split(":", 2) for line in groups.read_text(encoding="utf-8").splitlines()]
    except OSError:  # not Linux
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
    """The number in a file; unlimited if the file is missing or says "max"."""
    try:
        return int(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return 2**63
