"""All backbones by name."""

from policykd.learners.ddpg import DDPG
from policykd.learners.learner import Learner
from policykd.learners.ppo import PPO
from policykd.learners.sac import SAC
from policykd.learners.td3 import TD3

LEARNERS: dict[str, type[Learner]] = {"ddpg": DDPG, "td3": TD3, "sac": SAC, "ppo": PPO}
"""All backbones by name; rows may be added."""
