"""What learners remember and share."""

from policykd.memory.replay import Batch, SharedReplay

__all__ = ["Batch", "SharedReplay"]
