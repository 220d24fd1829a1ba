"""policykd: policies that learn from other policies, many learners in one batched update."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from policykd.classification.distiller import Distiller
from policykd.core.errors import PolicyKDError
from policykd.memory.replay import SharedReplay
from policykd.teachers import Teacher
from policykd.training.dual_student import DualStudent
from policykd.training.teacher_student import TeacherStudent

if TYPE_CHECKING:
    from policykd.cooperation.cooperative import CooperativeDistillation as CooperativeDistillation

__version__ = "0.1.0"
__all__ = ["Distiller", "DualStudent", "PolicyKDError", "SharedReplay", "Teacher", "TeacherStudent"]


def __getattr__(name: str) -> Any:
    """``CooperativeDistillation`` is a scikit-learn estimator, and scikit-learn an extra: imported when asked for."""
    if name == "CooperativeDistillation":
        from policykd.cooperation.cooperative import CooperativeDistillation

        return CooperativeDistillation
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
