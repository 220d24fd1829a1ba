"""Conversion of two networks' features to comparable shapes, and the small filters trained on them.

Every feature becomes a *map* ``(B, D, S)`` of D channels at S positions. A vector has one position, a sequence
``(B, N, D)`` has N, an image ``(B, D, H, W)`` has H x W. Filters can therefore always be 1x1 convolutions.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from policykd.core.errors import PolicyKDError
from policykd.distillation.supervised.config import FeatureConfig as FeatureConfig  # used by custom methods
from policykd.distillation.supervised.config import Reduction
from policykd.distillation.supervised.method import Outputs
from policykd.distillation.supervised.training_config import FeaturePaths as FeaturePaths


def check_pairs(method: str, student: Outputs, teacher: Outputs) -> list[tuple[Tensor, Tensor]]:
    """Pair student and teacher features, and check that each pair fits.

    Raises:
        PolicyKDError: no features are named, their numbers differ, or a pair differs in rank or length.
    """
    if not student.features or len(student.features) != len(teacher.features):
        raise PolicyKDError(
            f"features: {method} compares modules in pairs: name as many in student_features as in teacher_features, "
            f"at least one (now {len(student.features)} and {len(teacher.features)})"
        )
    for number, (own, target) in enumerate(zip(student.features, teacher.features, strict=True)):
        lengths = own.ndim == target.ndim == 3 and own.shape[1] != target.shape[1]
        if own.ndim != target.ndim or own.ndim not in (2, 3, 4) or lengths:
            raise PolicyKDError(
                f"features: pair {number} of {method} is {tuple(own.shape)} and {tuple(target.shape)}: both must be "
                "(B, D), (B, N, D) of one N, or (B, D, H, W)"
            )
    return as_maps(student, teacher)


def as_maps(student: Outputs, teacher: Outputs) -> list[tuple[Tensor, Tensor]]:
    """Convert pairs of features to maps ``(B, D, S)``; of two images the larger is pooled to the smaller's size."""
    pairs = []
    for own, target in zip(student.features, teacher.features, strict=True):
        if own.ndim == 4:
            size = min(own.shape[2], target.shape[2]), min(own.shape[3], target.shape[3])
            own, target = (x if x.shape[2:] == size else F.adaptive_avg_pool2d(x, size) for x in (own, target))
        pairs.append((as_map(own), as_map(target)))
    return pairs


def as_map(feature: Tensor) -> Tensor:
    """Convert a feature to ``(B, D, S)``."""
    if feature.ndim == 2:
        return feature.unsqueeze(2)
    return feature.transpose(1, 2) if feature.ndim == 3 else feature.flatten(2)


def reduced(entries: Tensor, reduction: Reduction) -> Tensor:
    """Reduce ``entries`` ``(B, D, S)``: mean over the batch, mean or sum over channels and positions."""
    return entries.mean() if reduction == "mean" else entries.sum((1, 2)).mean()


def linear(inputs: int, outputs: int) -> nn.Module:
    """A linear filter for maps ``(B, inputs, S)``."""
    return nn.Conv1d(inputs, outputs, 1)


def two_layers(inputs: int, hidden: int, outputs: int) -> nn.Module:
    """A two-layer filter with batch norm for maps ``(B, inputs, S)``."""
    return nn.Sequential(
        nn.Conv1d(inputs, hidden, 1, bias=False), nn.BatchNorm1d(hidden), nn.ReLU(), nn.Conv1d(hidden, outputs, 1)
    )
