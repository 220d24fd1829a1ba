"""Building environments with a clean console."""

import warnings
from typing import Any

import gymnasium as gym
import mujoco
from gymnasium.envs.registration import EnvSpec

# MuJoCo 4 prints this for every HalfCheetah, whose XML belongs to Gymnasium: nothing its user can act on.
_KNOWN_WARNING = "compiler attribute 'settotalmass' is deprecated"


def make(env_id: str | EnvSpec, **kwargs: Any) -> gym.Env:
    """Build an environment as ``gymnasium.make`` does, without MuJoCo's prints and ``MUJOCO_LOG.TXT``.

    MuJoCo's warnings during the construction become Python ``RuntimeWarning``s (or go to the handler that
    the caller set with ``mujoco.set_mju_user_warning``); only the known note on HalfCheetah's XML is dropped.

    Args:
        env_id: Registered id, ``"module:id"``, or a spec.
        **kwargs: Passed to ``gymnasium.make``.

    Returns:
        The environment, with the wrappers that its registration asks for.
    """
    messages: list[str] = []
    handler = mujoco.get_mju_user_warning()
    # Collected first and reported afterwards: Python must not raise inside a callback from C.
    mujoco.set_mju_user_warning(messages.append)
    try:
        return gym.make(env_id, **kwargs)
    finally:
        mujoco.set_mju_user_warning(handler)
        for message in messages:
            if _KNOWN_WARNING in message:
                continue
            if handler is not None:
                handler(message)
            else:
                warnings.warn(f"MuJoCo: {message}", RuntimeWarning, stacklevel=2)
