"""Whether this machine has the memory for what is asked, before it is taken."""

from __future__ import annotations

import os

import torch

from policykd.core.errors import PolicyKDError


def require_memory(nbytes: int, what: str, setting: str, device: torch.device | str = "cpu") -> None:
    """Refuse what the machine cannot hold.

    Args:
        nbytes: bytes that it takes.
        what: what takes them, such as "2 learners x 1,000,000 transitions".
        setting: what to lower.
        device: where; only the machine's own memory is looked at.

    Raises:
        PolicyKDError: the machine has less memory.
    """
    there = physical_memory()
    if torch.device(device).type == "cpu" and nbytes > there:
        raise PolicyKDError(
            f"memory: {what} need {nbytes / 1e9:,.1f} GB, this machine has {there / 1e9:,.1f} GB: lower {setting}"
        )


def physical_memory() -> int:
    """Bytes of memory in this machine."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError, AttributeError):  # not known here: let the allocation decide
        return 2**63
