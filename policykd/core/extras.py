"""Optional dependencies, imported where they are used."""

from __future__ import annotations

import importlib
from typing import Any

from policykd.core.errors import PolicyKDError


def import_extra(module: str, extra: str = "classification") -> Any:
    """Import a module of one of policykd's extras.

    Raises:
        PolicyKDError: it is not installed; the error says how to install it.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise PolicyKDError(
            f'{extra}: {module.partition(".")[0]} is needed ({error}): pip install "policykd[{extra}]"'
        ) from None
