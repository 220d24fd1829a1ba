"""How learners improve by themselves: one file per algorithm, all learners (rows) at once."""

from policykd.learners.config import Config, DDPGConfig, PPOConfig, SACConfig, TD3Config
from policykd.learners.ddpg import DDPG
from policykd.learners.off_policy import OffPolicyLearner
from policykd.learners.ppo import PPO
from policykd.learners.sac import SAC
from policykd.learners.td3 import TD3

OFF_POLICY: dict[str, type[OffPolicyLearner]] = {"ddpg": DDPG, "td3": TD3, "sac": SAC}
"""Backbones that learn from a replay."""

LEARNERS: dict[str, type[OffPolicyLearner] | type[PPO]] = {**OFF_POLICY, "ppo": PPO}
"""All backbones by name."""

CONFIGS: dict[str, type[Config]] = {"ddpg": DDPGConfig, "td3": TD3Config, "sac": SACConfig, "ppo": PPOConfig}
"""Each backbone's settings."""

__all__ = ["CONFIGS", "DDPG", "LEARNERS", "OFF_POLICY", "PPO", "SAC", "TD3", "OffPolicyLearner"]
