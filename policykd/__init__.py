"""policykd: policies that learn from other policies, many learners in one batched update."""

from policykd.agents.dual_student import DualStudent
from policykd.classification.distiller import Distiller
from policykd.errors import PolicyKDError
from policykd.memory.replay import SharedReplay
from policykd.teachers import Teacher

__version__ = "0.1.0"
__all__ = ["Distiller", "DualStudent", "PolicyKDError", "SharedReplay", "Teacher"]
