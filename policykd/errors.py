"""The one error of policykd, for ``except``."""

from policykd.core.errors import PolicyKDError

__all__ = ["PolicyKDError"]
