"""All supervised methods by name."""

from __future__ import annotations

from policykd.core.errors import PolicyKDError
from policykd.core.registry import find
from policykd.distillation.supervised.cross_entropy import CrossEntropy, LabelSmoothing
from policykd.distillation.supervised.disk import DiSK
from policykd.distillation.supervised.fitnets import FitNets
from policykd.distillation.supervised.hinton import Hinton
from policykd.distillation.supervised.method import Method
from policykd.distillation.supervised.reaugkd import ReAugKD
from policykd.distillation.supervised.rid import RID
from policykd.distillation.supervised.rkd import RKD
from policykd.distillation.supervised.ted import TED
from policykd.distillation.supervised.vid import VID

METHODS: dict[str, type[Method]] = {
    "cross_entropy": CrossEntropy,
    "label_smoothing": LabelSmoothing,
    "hinton": Hinton,
    "fitnets": FitNets,
    "rkd": RKD,
    "vid": VID,
    "ted": TED,
    "disk": DiSK,
    "rid": RID,
    "reaugkd": ReAugKD,
}
"""What ``Distiller(method=...)`` names."""


def find_method(method: str | type[Method]) -> tuple[str, type[Method]]:
    """Name and class of a method by its name, or of the user's own class.

    Raises:
        PolicyKDError: there is none of that name, or it is no class of a method.
    """
    if isinstance(method, type) and issubclass(method, Method):
        return next((name for name, known in METHODS.items() if known is method), method.__name__), method
    if not isinstance(method, str):
        raise PolicyKDError(
            f"method: expected a name or a subclass of policykd.distillation.supervised.method.Method, got {method!r}"
        )
    return method, find("method", method, METHODS)
