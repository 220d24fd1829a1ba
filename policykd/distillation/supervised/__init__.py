"""Supervised distillation: one file per method, each with its settings, its pure loss and its plan of passes."""

from __future__ import annotations

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
