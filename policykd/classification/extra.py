"""Packages that only the classification mode needs, imported where they are used."""

from __future__ import annotations

import importlib
from typing import Any

from policykd.errors import PolicyKDError


def needs(module: str) -> Any:
    """Import a module of the extra ``classification``.

    Raises:
        PolicyKDError: it is not installed; the line says how to get it.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise PolicyKDError(
            f'classification: {module.partition(".")[0]} is needed ({error}): pip install "policykd[classification]"'
        ) from None
