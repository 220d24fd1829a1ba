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
"""Methods by the name that ``Distiller(method=...)`` takes."""


def find_method(method: str | type[Method]) -> tuple[str, type[Method]]:
    """Look up a method by name; a class of the user's is returned with its name.

    Raises:
        PolicyKDError: the name is unknown, or the class is not a ``Method``.
    """
    if isinstance(method, type) and issubclass(method, Method):
        return next((name for name, known in METHODS.items() if known is method), method.__name__), method
    if not isinstance(method, str):
        raise PolicyKDError(
            f"method: expected a name or a subclass of policykd.distillation.supervised.method.Method, got {method!r}"
        )
    return method, find("method", method, METHODS)
