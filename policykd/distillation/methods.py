"""The methods of both modes of policy distillation, as rows of two tables and of one view of both."""

from __future__ import annotations

from collections import ChainMap
from typing import Any

from policykd.distillation.peer_methods import PEER_METHODS, PeerMethod
from policykd.distillation.teacher_methods import TEACHER_METHODS, TeacherMethod

__all__ = ["METHODS", "PEER_METHODS", "TEACHER_METHODS", "PeerMethod", "TeacherMethod"]

METHODS: ChainMap[str, Any] = ChainMap(PEER_METHODS, TEACHER_METHODS)
"""Both tables as one: a view, so that rows added to either are seen."""
