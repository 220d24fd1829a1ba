"""What learners remember."""

from policykd.memory.replay import Batch, SharedReplay
from policykd.memory.rollout import Rollout

__all__ = ["Batch", "Rollout", "SharedReplay"]
