"""policykd: control policies that learn from other policies, many learners in one batched update."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from policykd.classification.distiller import Distiller as Distiller
    from policykd.cooperation.cooperative import CooperativeDistillation as CooperativeDistillation
    from policykd.core.errors import PolicyKDError as PolicyKDError
    from policykd.memory.logged import LoggedStates as LoggedStates
    from policykd.memory.replay import SharedReplay as SharedReplay
    from policykd.teachers import Teacher as Teacher
    from policykd.training.dual_student import DualStudent as DualStudent
    from policykd.training.teacher_student import TeacherStudent as TeacherStudent

__version__ = "0.1.0"
__all__ = ["Distiller", "DualStudent", "LoggedStates", "PolicyKDError", "SharedReplay", "Teacher", "TeacherStudent"]

_HOMES = {
    "CooperativeDistillation": "policykd.cooperation.cooperative",  # needs an extra, hence not in __all__
    "Distiller": "policykd.classification.distiller",
    "DualStudent": "policykd.training.dual_student",
    "LoggedStates": "policykd.memory.logged",
    "PolicyKDError": "policykd.core.errors",
    "SharedReplay": "policykd.memory.replay",
    "Teacher": "policykd.teachers",
    "TeacherStudent": "policykd.training.teacher_student",
}
"""Where each public name lives: imported when first asked for (PEP 562), so that ``policykd --help`` needs no torch."""


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(importlib.import_module(_HOMES[name]), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
