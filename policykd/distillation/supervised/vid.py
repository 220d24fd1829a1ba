"""VID (Ahn et al. 2019, *Variational Information Distillation*): a Gaussian model of the teacher's features."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from policykd.distillation.supervised.config import Reduction, VIDConfig
from policykd.distillation.supervised.feature_maps import as_maps, check_pairs, reduced
from policykd.distillation.supervised.hinton import Hinton
from policykd.distillation.supervised.method import Outputs, Step, Terms
from policykd.distillation.supervised.training_config import TrainingConfig

FLOOR, START = 1e-5, 5.0
"""Minimum variance, and the initial variance."""


def vid_loss(mean: Tensor, variance: Tensor, target: Tensor, reduction: Reduction = "mean") -> Tensor:
    """Negative log-likelihood of the teacher's map, up to a constant: mean of ((t - mu)^2 / var + log var) / 2.

    Args:
        mean: mu, predicted from the student's map ``(B, D, S)``.
        variance: variance per channel ``(D,)``.
        target: the teacher's map ``(B, D, S)``.
        reduction: reduction over channels and positions; the batch is averaged.
    """
    variance = variance[:, None]
    return 0.5 * reduced((target - mean).square() / variance + variance.log(), reduction)


class GaussianModel(nn.Module):
    """Mean and per-channel variance of a teacher's map given the student's: three 1x1 convolutions with ReLU.

    Args:
        inputs: channels of the student.
        outputs: channels of the teacher, also the hidden width.
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        widths = [inputs, outputs, outputs, outputs]
        layers = [[nn.Conv1d(a, b, 1, bias=False), nn.ReLU()] for a, b in pairwise(widths)]
        self.mean = nn.Sequential(*[module for pair in layers for module in pair][:-1])
        self.raw_variance = nn.Parameter(torch.full((outputs,), math.log(math.expm1(START - FLOOR))))

    def forward(self, own: Tensor) -> tuple[Tensor, Tensor]:
        """Mean ``(B, D, S)`` and variance ``(D,)``."""
        return self.mean(own), F.softplus(self.raw_variance) + FLOOR


class VID(Hinton):
    """Hinton's loss plus the negative log-likelihood of every pair of features."""

    config_type: ClassVar[type[TrainingConfig]] = VIDConfig
    config: VIDConfig

    def __init__(self, config: VIDConfig, student: Outputs, teacher: Outputs) -> None:
        super().__init__(config, student, teacher)
        pairs = check_pairs("vid", student, teacher)
        self.models = nn.ModuleList(GaussianModel(own.shape[1], target.shape[1]) for own, target in pairs)

    def helpers(self, group: str) -> list[nn.Module]:
        """The Gaussian models, trained with the student."""
        return [self.models]

    def loss(self, step: Step) -> tuple[Tensor, Terms]:
        """Hinton's loss + weight * sum of negative log-likelihoods."""
        loss, terms = super().loss(step)
        pairs = zip(self.models, as_maps(step.student, step.teacher), strict=True)
        losses = []
        for model, (own, target) in pairs:
            mean, variance = model(own)
            losses.append(vid_loss(mean, variance, target, self.config.reduction))
        vid = torch.stack(losses).sum()
        return loss + self.config.weight * vid, {**terms, "vid_loss": vid.detach()}
