"""RKD (Park et al. 2019, *Relational Knowledge Distillation*): match distances and angles between examples."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from policykd.distillation.supervised.config import RKDConfig
from policykd.distillation.supervised.feature_maps import check_pairs
from policykd.distillation.supervised.hinton import Hinton
from policykd.distillation.supervised.method import Outputs, Step, Terms
from policykd.distillation.supervised.training_config import TrainingConfig


def distance_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Smooth L1 between the pairwise distances of a batch, each network's divided by their mean.

    Args:
        student: ``(B, D)``.
        teacher: ``(B, E)``; E may differ from D.
    """
    return F.smooth_l1_loss(_relative_distances(student), _relative_distances(teacher))


def angle_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Smooth L1 between the cosines of the angles of all triplets, from ``(B, D)`` and ``(B, E)``."""
    return F.smooth_l1_loss(_cosines(student), _cosines(teacher))


def _relative_distances(embeddings: Tensor) -> Tensor:
    """Euclidean distances ``(B, B)`` divided by the mean of the positive ones."""
    squared = (embeddings.unsqueeze(0) - embeddings.unsqueeze(1)).square().sum(2)
    apart = squared > 0
    # The root has no gradient at 0: coinciding examples get the constant distance 0.
    distances = torch.where(apart, squared, 1.0).sqrt() * apart
    return distances / (distances.sum() / apart.sum().clamp_min(1)).clamp_min(torch.finfo(squared.dtype).tiny)


def _cosines(embeddings: Tensor) -> Tensor:
    """Cosine of the angle at corner i between examples j and k, ``(B, B, B)``."""
    differences = embeddings.unsqueeze(0) - embeddings.unsqueeze(1)
    lengths = torch.linalg.vector_norm(differences, dim=2, keepdim=True)
    # Coinciding examples get the constant direction 0, where F.normalize would multiply the gradient by 1e12.
    directions = differences / lengths.where(lengths > 0, torch.inf)
    return directions @ directions.transpose(1, 2)


class RKD(Hinton):
    """Hinton's loss plus both relational losses for every pair of features."""

    config_type: ClassVar[type[TrainingConfig]] = RKDConfig
    config: RKDConfig

    def __init__(self, config: RKDConfig, student: Outputs, teacher: Outputs) -> None:
        super().__init__(config, student, teacher)
        if student.features or teacher.features:
            check_pairs("rkd", student, teacher)

    def loss(self, step: Step) -> tuple[Tensor, Terms]:
        """Hinton's loss + weighted distance and angle losses."""
        loss, terms = super().loss(step)
        own = step.student.features or (step.student.logits,)
        target = step.teacher.features or (step.teacher.logits,)
        pairs = [(x.flatten(1), t.flatten(1)) for x, t in zip(own, target, strict=True)]
        distance = torch.stack([distance_loss(*pair) for pair in pairs]).sum()
        angle = torch.stack([angle_loss(*pair) for pair in pairs]).sum()
        loss = loss + self.config.distance_weight * distance + self.config.angle_weight * angle
        return loss, {**terms, "distance_loss": distance.detach(), "angle_loss": angle.detach()}
