"""The methods of both modes of policy distillation, as rows of two tables."""

from policykd.distillation.peer_methods import PEER_METHODS, PeerMethod
from policykd.distillation.teacher_methods import TEACHER_METHODS, TeacherMethod

__all__ = ["PEER_METHODS", "TEACHER_METHODS", "PeerMethod", "TeacherMethod"]
