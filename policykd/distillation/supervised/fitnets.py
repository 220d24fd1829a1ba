"""FitNets (Romero et al. 2015, *FitNets: Hints for Thin Deep Nets*): match teacher features through a regressor."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from policykd.distillation.supervised.config import FitNetsConfig
from policykd.distillation.supervised.feature_maps import as_maps, check_pairs, linear
from policykd.distillation.supervised.hinton import Hinton
from policykd.distillation.supervised.method import Outputs, Step, Terms
from policykd.distillation.supervised.training_config import TrainingConfig


def hint_loss(regressed: Tensor, target: Tensor) -> Tensor:
    """Mean squared error between the regressed student map and the teacher's, both ``(B, D, S)``."""
    return F.mse_loss(regressed, target)


class FitNets(Hinton):
    """Hinton's loss plus a hint loss per pair of features, through linear regressors trained with the student."""

    config_type: ClassVar[type[TrainingConfig]] = FitNetsConfig
    config: FitNetsConfig

    def __init__(self, config: FitNetsConfig, student: Outputs, teacher: Outputs) -> None:
        super().__init__(config, student, teacher)
        pairs = check_pairs("fitnets", student, teacher)
        self.regressors = nn.ModuleList(linear(own.shape[1], target.shape[1]) for own, target in pairs)

    def helpers(self, group: str) -> list[nn.Module]:
        """The regressors, trained with the student."""
        return [self.regressors]

    def loss(self, step: Step) -> tuple[Tensor, Terms]:
        """Hinton's loss + weight * sum of hint losses."""
        loss, terms = super().loss(step)
        pairs = zip(self.regressors, as_maps(step.student, step.teacher), strict=True)
        hint = torch.stack([hint_loss(regressor(own), target) for regressor, (own, target) in pairs]).sum()
        return loss + self.config.weight * hint, {**terms, "hint_loss": hint.detach()}
