"""Supervised distillation: one file per method, each with its settings, its pure loss and its plan of passes."""

from __future__ import annotations

from policykd.distillation.supervised.cross_entropy import CrossEntropy, LabelSmoothing
from policykd.distillation.supervised.hinton import Hinton
from policykd.distillation.supervised.method import Method

METHODS: dict[str, type[Method]] = {
    "cross_entropy": CrossEntropy,
    "label_smoothing": LabelSmoothing,
    "hinton": Hinton,
}
"""What ``Distiller(method=...)`` names."""
