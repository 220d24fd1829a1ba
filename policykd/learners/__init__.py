"""How learners improve by themselves: one file per algorithm, all learners (rows) at once."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from policykd.learners.backbones import LEARNERS as LEARNERS
    from policykd.learners.ddpg import DDPG as DDPG
    from policykd.learners.learner import Learner as Learner
    from policykd.learners.off_policy import OffPolicyLearner as OffPolicyLearner
    from policykd.learners.ppo import PPO as PPO
    from policykd.learners.sac import SAC as SAC
    from policykd.learners.td3 import TD3 as TD3

__all__ = ["DDPG", "LEARNERS", "PPO", "SAC", "TD3", "Learner", "OffPolicyLearner"]

_HOMES = {"LEARNERS": "backbones", "Learner": "learner", "OffPolicyLearner": "off_policy"}
_HOMES |= {name: name.lower() for name in ("DDPG", "PPO", "SAC", "TD3")}
"""The module of each public name, imported when it is first asked for (PEP 562): settings alone need no torch."""


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    return value
