"""How learners improve by themselves: one file per algorithm, all learners (rows) at once."""

from policykd.config import DDPGConfig, TD3Config
from policykd.learners.ddpg import DDPG
from policykd.learners.td3 import TD3

LEARNERS: dict[str, type[DDPG]] = {"ddpg": DDPG, "td3": TD3}
"""Backbones by name."""

CONFIGS: dict[str, type[DDPGConfig]] = {"ddpg": DDPGConfig, "td3": TD3Config}
"""Each backbone's settings."""

__all__ = ["CONFIGS", "DDPG", "LEARNERS", "TD3"]
