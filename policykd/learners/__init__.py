"""How learners improve by themselves: one file per algorithm, all learners (rows) at once."""

from policykd.config import DDPGConfig, OffPolicyConfig, SACConfig, TD3Config
from policykd.learners.ddpg import DDPG
from policykd.learners.off_policy import OffPolicyLearner
from policykd.learners.sac import SAC
from policykd.learners.td3 import TD3

LEARNERS: dict[str, type[OffPolicyLearner]] = {"ddpg": DDPG, "td3": TD3, "sac": SAC}
"""Backbones by name."""

CONFIGS: dict[str, type[OffPolicyConfig]] = {"ddpg": DDPGConfig, "td3": TD3Config, "sac": SACConfig}
"""Each backbone's settings."""

__all__ = ["CONFIGS", "DDPG", "LEARNERS", "SAC", "TD3", "OffPolicyLearner"]
