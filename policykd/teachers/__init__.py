"""Teachers: any policy, loaded, checked and frozen (see docs/teachers.md)."""

from policykd.teachers.score import TeacherScore
from policykd.teachers.teacher import Teacher

__all__ = ["Teacher", "TeacherScore"]
