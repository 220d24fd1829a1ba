"""Supervised distillation: one file per method, its pure loss and its plan; the settings of all in ``config.py``."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from policykd.distillation.supervised.methods import METHODS as METHODS
    from policykd.distillation.supervised.methods import find_method as find_method

__all__ = ["METHODS", "find_method"]


def __getattr__(name: str) -> Any:
    if name not in __all__:  # settings alone need no torch (PEP 562)
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(importlib.import_module(f"{__name__}.methods"), name)
    return value
