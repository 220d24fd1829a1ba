"""A teacher's part in one joint loss with RL: L = L_RL + lambda E_s [w(s) D(teacher(s), student(s))]."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Protocol

import torch
from torch import Tensor

from policykd.core.errors import PolicyKDError
from policykd.core.networks import Adam, PolicyOutput, gradient
from policykd.core.normaliser import RunningMeanStd
from policykd.distillation.divergences import (
    TEACHER_DIVERGENCES,
    Divergence,
    cross_entropy_forward,
    cross_entropy_reverse,
    distance,
    kl_forward,
    kl_reverse,
    mse,
    nll,
)
from policykd.distillation.labels import Labels, confidence
from policykd.distillation.methods import TeacherMethod
from policykd.distillation.schedules import BY_STUDENT, dual_ascent, return_ratio, schedule_of
from policykd.distillation.teaching_config import TeachingConfig
from policykd.distillation.weights import EMPTY, Comparison, weight_of

RECENT = 10
"""Episodes over which a student's return is averaged for the return ratio."""


class Score(Protocol):
    """Mean returns of a teacher, and of random actions."""

    @property
    def mean(self) -> float:
        """Of the teacher."""

    @property
    def random_mean(self) -> float:
        """Of random actions."""


def kl_of_mean(own: PolicyOutput, target: PolicyOutput) -> Tensor:
    """KL from the target's choice, or from a Gaussian around its mean that is as wide as ``own`` is: ``(K, B)``."""
    return kl_forward(own, target._replace(std=own.std)) if own.logits is None else nll(own, target)


KL_OF = (
    (cross_entropy_forward, kl_forward),
    (cross_entropy_reverse, kl_reverse),
    (TEACHER_DIVERGENCES["gaussian_nll"], kl_of_mean),
    (nll, kl_of_mean),
)
"""Divergences that are not 0 between equals, and the KL divergence that differs from each by an entropy."""


def as_kl(divergence: Divergence) -> Divergence:
    """The KL divergence of a cross-entropy or likelihood, which differ from it by an entropy; others as they are."""
    if isinstance(divergence, partial) and divergence.func is distance:  # at a temperature
        inner = divergence.keywords["divergence"]
        exact = as_kl(inner)
        return divergence if exact is inner else partial(divergence, divergence=exact)
    return next((kl for known, kl in KL_OF if known is divergence), divergence)


class JointTeaching:
    """The teacher's weight, and what a method must remember beside its students.

    Args:
        method: a row of the table.
        config: settings.
        actor: the students' policies ``(K, P)`` as they are now.
        divergence: distance ``(K, B)`` of a student from its teacher; None: the teacher only gives rewards.
        n_envs: environments N of each learner.
    """

    def __init__(
        self, method: TeacherMethod, config: TeachingConfig, actor: Tensor, divergence: Divergence | None, n_envs: int
    ) -> None:
        self.method, self.config, self.divergence = method, config, divergence
        self.weight = weight_of(method.weight)
        self.schedule = method.schedule if config.distill_schedule == "auto" else config.distill_schedule
        if self.schedule not in BY_STUDENT:
            schedule_of(self.schedule)  # an unknown name is refused now, not at the first update
        self.held = as_kl(divergence) if divergence and self.schedule == "held_kl" else None
        """What the weight holds at a bound, if anything: a distance ``(K, B)``, also where the loss is none."""
        self.log_coefficient = torch.zeros(len(actor), device=actor.device)
        self.lambdas = torch.zeros(len(actor), device=actor.device)
        """The teacher's present weight relative to RL, of each student, ``(K,)``."""
        if method.confident:  # ADVISOR's imitator
            self.auxiliary = actor.clone()
            self.auxiliary_adam = Adam(self.auxiliary)
        if method.reward is not None:
            self.reward_stats = RunningMeanStd(len(actor), (), actor.device)
            self.discounted_rewards = torch.zeros(len(actor), n_envs, dtype=torch.float64, device=actor.device)

    def fade(self, progress: float, returns: Sequence[Sequence[float]], score: Score | None) -> None:
        """Set the teacher's weight lambda relative to RL, of each student.

        Args:
            progress: from 0 to 1 over the run.
            returns: each student's training returns so far, the latest last.
            score: the teacher's returns, for the return ratio.
        """
        ones = torch.ones_like(self.log_coefficient)
        if self.schedule == "held_kl":
            strength = self.log_coefficient.exp()
        elif self.schedule == "return_ratio":
            assert score is not None
            # Before its first episode has ended a student knows nothing: the teacher counts in full.
            means = [sum(r[-RECENT:]) / len(r[-RECENT:]) if r else score.random_mean for r in returns]
            strength = return_ratio(torch.tensor(means, dtype=ones.dtype), score.mean, score.random_mean).to(ones)
        else:
            strength = schedule_of(self.schedule)(progress) * ones
        self.lambdas.copy_(self.config.distill_coef * strength)

    def adapt(self, distance: Tensor) -> None:
        """After an update: raise lambda where students are further from the teacher, ``(K,)``, than held_kl wants."""
        if self.schedule == "held_kl":
            self.log_coefficient.copy_(dual_ascent(self.log_coefficient, distance, self.config.kl_target))

    def losses(
        self, own: PolicyOutput, labels: Labels, own_value: Callable[[], Tensor], weight: Tensor | None = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Weighted distances ``(K, B)`` from the teacher, and diagnostics ``(K,)``.

        Args:
            own: the students' answers.
            labels: the teacher's.
            own_value: the students' values ``(K, B)`` in the task's units of reward; asked if the method weighs by it.
            weight: of each state, where it is not the method's function of the values.
        """
        assert self.divergence is not None
        distance = self.divergence(own, labels.policy)
        info = {"distill/distance": distance.detach().mean(1)}
        gap = (own.actions.detach() - labels.policy.actions).square().sum(-1).sqrt()
        info["distill/action_gap"] = gap.mean(1)
        if self.held is not None:
            held = distance if self.held is self.divergence else self.held(own, labels.policy)
            info["distill/held"] = held.detach().mean(1)
        if self.weight is not None:
            seen = Comparison(labels.value, own_value().detach(), EMPTY)
            weight = self.weight(seen, self.config)
        if weight is None:
            return distance, info
        if weight.shape != distance.shape:
            raise PolicyKDError(f"weight: must be (K, B), got {tuple(weight.shape)} beside {tuple(distance.shape)}")
        return weight * distance, info | {"distill/weight_mean": weight.detach().mean(1)}

    def imitate(self, outputs: Callable[[Tensor], PolicyOutput], labels: Labels, learning_rate: Tensor) -> Tensor:
        """ADVISOR: one step of the imitator, and how far imitation can be trusted at each state: ``(K, B)``."""
        divergence = self.divergence
        assert divergence is not None

        def loss(actor: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
            imitated = outputs(actor)
            apart = mse if imitated.logits is None else kl_forward
            trust = confidence(apart(imitated.map(Tensor.detach), labels.policy), self.config.alpha)
            return divergence(imitated, labels.policy).mean(1), {"trust": trust}

        gradients, info = gradient(loss, self.auxiliary)
        self.auxiliary_adam.step(self.auxiliary, gradients, learning_rate)
        return info["trust"]

    def scale_rewards(self, rewards: Tensor, dones: Tensor, gamma: float) -> Tensor:
        """The teacher's rewards ``(K, T, N)`` over their own return's running deviation: as PPO's, but not clipped."""
        scaled = torch.empty_like(rewards)
        for t in range(rewards.shape[1]):
            self.discounted_rewards.mul_(gamma).add_(rewards[:, t])
            self.reward_stats.update(self.discounted_rewards)
            self.discounted_rewards.mul_(1 - dones[:, t])
            scaled[:, t] = rewards[:, t] / self.reward_stats.std.unsqueeze(1)
        return scaled
