"""An environment that raises: whose it was, in one line; the traceback stays behind it."""

from __future__ import annotations

import gymnasium as gym

from policykd.core.errors import PolicyKDError


def broken(error: Exception, env: gym.Env, number: int, where: str) -> Exception:
    """The error to raise where an environment raised one; errors of files, and our own, stay as they are.

    Args:
        error: what was raised.
        env: the environment.
        number: which of those that are stepped together.
        where: what they are for, in words.
    """
    if isinstance(error, PolicyKDError | OSError):
        return error
    name = env.spec.id if env.spec is not None else type(env.unwrapped).__name__
    line = f"{type(error).__name__}: {' '.join(str(error).split())}"
    told = PolicyKDError(f"environment: {name} number {number} {where} raised {line}")
    told.__cause__ = error
    return told
