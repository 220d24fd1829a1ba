"""Supervised distillation: one file per method, its pure loss and its plan; the settings of all in ``config.py``."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from policykd.distillation.supervised.cross_entropy import CrossEntropy, LabelSmoothing
    from policykd.distillation.supervised.disk import DiSK
    from policykd.distillation.supervised.fitnets import FitNets
    from policykd.distillation.supervised.hinton import Hinton
    from policykd.distillation.supervised.method import Method
    from policykd.distillation.supervised.methods import METHODS, find_method
    from policykd.distillation.supervised.reaugkd import ReAugKD
    from policykd.distillation.supervised.rid import RID
    from policykd.distillation.supervised.rkd import RKD
    from policykd.distillation.supervised.ted import TED
    from policykd.distillation.supervised.vid import VID

__all__ = [
    "METHODS", "RID", "RKD", "TED", "VID", "CrossEntropy", "DiSK", "FitNets", "Hinton", "LabelSmoothing", "Method",
    "ReAugKD", "find_method",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name not in __all__:  # settings alone need no torch (PEP 562)
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(importlib.import_module(f"{__name__}.methods"), name)
    return value
