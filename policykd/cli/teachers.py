"""Loads the teachers named on a command line."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from policykd.core.errors import PolicyKDError
from policykd.tasks.views import Choice
from policykd.teachers import Teacher


def load_teachers(
    sources: Sequence[str], env: str, part: Choice, vecnormalize: Path | None, trust: bool
) -> list[Teacher]:
    """Load teachers of a task.

    Args:
        sources: their files or folders.
        env: the task.
        part: the part of its observation that they read (``teacher_observations``); students check them against it.
        vecnormalize: the ``vecnormalize.pkl`` of a single teacher, if it is not beside its zip.
        trust: run code in their files.

    Raises:
        PolicyKDError: one cannot be loaded, or ``vecnormalize`` is given for several.
    """
    if vecnormalize is not None and len(sources) > 1:
        raise PolicyKDError("vecnormalize: applies to a single teacher; with several, put each one beside its file")
    task = env if part is None else None
    return [Teacher.load(source, task, vecnormalize=vecnormalize, trust=trust) for source in sources]
