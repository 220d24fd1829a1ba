"""Makes environments without console noise."""

import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import gymnasium as gym
import mujoco
from gymnasium.envs.registration import EnvSpec

# MuJoCo 4 prints this for every HalfCheetah, whose XML is Gymnasium's: users cannot act on it.
_KNOWN_WARNING = "compiler attribute 'settotalmass' is deprecated"


@contextmanager
def quiet() -> Iterator[None]:
    """Context in which environments are made without MuJoCo's prints and ``MUJOCO_LOG.TXT``.

    MuJoCo's warnings become Python ``RuntimeWarning``s (or go to the handler that the caller set with
    ``mujoco.set_mju_user_warning``); only the known note on HalfCheetah's XML is dropped. Processes forked inside the
    context keep printing MuJoCo's warnings.
    """
    messages: list[str] = []
    owner, handler = os.getpid(), mujoco.get_mju_user_warning()

    def collect(message: str) -> None:
        if os.getpid() == owner:
            messages.append(message)
        elif _KNOWN_WARNING not in message:
            print(f"MuJoCo: {message}", file=sys.stderr)

    # Collect first and report afterwards: Python must not raise inside a callback from C.
    mujoco.set_mju_user_warning(collect)
    try:
        yield
    finally:
        mujoco.set_mju_user_warning(handler)
        for message in messages:
            if _KNOWN_WARNING in message:
                continue
            if handler is not None:
                handler(message)
            else:
                warnings.warn(f"MuJoCo: {message}", RuntimeWarning, stacklevel=3)


def make(env_id: str | EnvSpec, **kwargs: Any) -> gym.Env:
    """Build an environment as ``gymnasium.make`` does, ``quiet``.

    Args:
        env_id: Registered id, ``"module:id"``, or a spec.
        **kwargs: Passed to ``gymnasium.make``.

    Returns:
        The environment, with the wrappers that its registration asks for.
    """
    with quiet():
        return gym.make(env_id, **kwargs)
