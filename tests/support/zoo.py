"""rl-baselines3-zoo's modules, where they are installed."""

from types import ModuleType

import gymnasium as gym
import pytest


def zoo(name: str) -> ModuleType:
    """A module of the zoo, whose import changes Gymnasium's TimeLimit for everything after: that is taken back."""
    places = gym.wrappers, gym.wrappers.common
    before = [place.TimeLimit for place in places]
    try:
        return pytest.importorskip(name, reason="rl-baselines3-zoo is not installed")
    finally:
        for place, wrapper in zip(places, before, strict=True):
            place.TimeLimit = wrapper
