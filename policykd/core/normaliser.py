"""Running observation and reward statistics per learner: SB3's ``VecNormalize`` with a learner axis."""

from __future__ import annotations

import pickle
from typing import Any

import torch
from torch import Tensor

CLIP = 10.0
"""Normalised values are clipped to +-CLIP, as in ``VecNormalize``."""
EPSILON = 1e-8
"""Added to the variance before its root, as in ``VecNormalize``."""


class RunningMeanStd:
    """Running mean and variance of K streams (Chan, Golub & LeVeque 1979), in float64 like SB3's class of this name.

    Args:
        learners: number of streams K, which all receive equally many values.
        shape: shape of one value.
        device: device of the statistics.
    """

    def __init__(self, learners: int, shape: tuple[int, ...], device: torch.device | str = "cpu") -> None:
        self.mean = torch.zeros(learners, *shape, dtype=torch.float64, device=device)
        self.var = torch.ones(learners, *shape, dtype=torch.float64, device=device)
        self.count = torch.tensor(1e-4, dtype=torch.float64, device=device)  # SB3's initial count: a trace of (0, 1)

    @property
    def std(self) -> Tensor:
        """Standard deviations ``(K, *shape)``, never 0."""
        return (self.var + EPSILON).sqrt()

    def update(self, values: Tensor) -> None:
        """Update with N values of every stream, ``(K, N, *shape)``."""
        values, added = values.double(), values.shape[1]
        total = self.count + added
        one = added == 1  # the usual case: its own mean, without variance
        difference = (values[:, 0] if one else values.mean(1)) - self.mean
        squares = self.var * self.count
        if not one:
            squares += values.var(1, correction=0) * added
        self.var.copy_((squares + difference.square() * (self.count * added / total)) / total)
        self.mean.add_(difference * (added / total))
        self.count.copy_(total)


TRAINED_ON_SCALED = "trained_norm_reward"
"""Attribute of a written ``VecNormalize``: whether its agent was trained on scaled rewards, so its values are too."""


def pickle_for_inference(vec_normalize: Any) -> bytes:
    """Pickle an SB3 ``VecNormalize`` for its ``load``, with updates and reward scaling switched off.

    ``evaluate_policy`` then gives the task's returns. To resume training, set ``training`` and ``norm_reward`` again.

    Args:
        vec_normalize: the wrapper, changed in place.
    """
    setattr(vec_normalize, TRAINED_ON_SCALED, vec_normalize.norm_reward)
    vec_normalize.training = vec_normalize.norm_reward = False
    return pickle.dumps(vec_normalize)
