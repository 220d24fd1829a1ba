"""How far apart two policies are at a state. Every divergence returns one number per state, ``(K, B)``.

Actions and means are ``(K, B, A)`` in [-1, 1]; distances are summed over the action dimension, never averaged, so
that a divergence of two factorised Gaussians is that of their joint distribution.
"""

from __future__ import annotations

import math
from collections import ChainMap
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from policykd.core.networks import PolicyOutput
from policykd.core.registry import find

Direction = Literal["forward", "reverse"]


def action_mse(actions: Tensor, target_actions: Tensor) -> Tensor:
    """Squared Euclidean distance of two actions, the D of DPD (Lai et al. 2020, section 3.2).

    Args:
        actions: the student's actions ``(K, B, A)``.
        target_actions: the actions to copy ``(K, B, A)``.

    Returns:
        ``(K, B)``.

    Raises:
        ValueError: the shapes differ or are not ``(K, B, A)``.
    """
    _check(actions, target_actions)
    return (actions - target_actions).square().sum(-1)


def action_huber(actions: Tensor, target_actions: Tensor, delta: float = 1.0) -> Tensor:
    """Huber distance (quadratic up to ``delta``, linear beyond), summed over action dimensions: ``(K, B)``.

    Raises:
        ValueError: the shapes differ or are not ``(K, B, A)``.
    """
    _check(actions, target_actions)
    return torch.nn.functional.huber_loss(actions, target_actions, reduction="none", delta=delta).sum(-1)


def gaussian_kl(
    mean: Tensor, std: Tensor, target_mean: Tensor, target_std: Tensor, direction: Direction = "forward"
) -> Tensor:
    """Kullback-Leibler divergence of two diagonal Gaussians, ``(K, B)``.

    Args:
        mean: the student's means ``(K, B, A)``.
        std: the student's standard deviations ``(K, B, A)``.
        target_mean: the target's means ``(K, B, A)``.
        target_std: the target's standard deviations ``(K, B, A)``.
        direction: "forward" is KL(target || student), which covers the target's mass; "reverse" is
            KL(student || target), which seeks its mode.

    Raises:
        ValueError: the shapes differ or are not ``(K, B, A)``.
    """
    _check(mean, std, target_mean, target_std)
    if direction == "reverse":
        mean, std, target_mean, target_std = target_mean, target_std, mean, std
    ratio = (target_std.square() + (target_mean - mean).square()) / (2 * std.square())
    return (std.log() - target_std.log() + ratio - 0.5).sum(-1)


def wasserstein2(mean: Tensor, std: Tensor, target_mean: Tensor, target_std: Tensor) -> Tensor:
    """Squared 2-Wasserstein distance of two diagonal Gaussians ``(K, B, A)``: ``(K, B)``.

    Raises:
        ValueError: the shapes differ or are not ``(K, B, A)``.
    """
    _check(mean, std, target_mean, target_std)
    return ((mean - target_mean).square() + (std - target_std).square()).sum(-1)


def gaussian_nll(mean: Tensor, std: Tensor, target_actions: Tensor) -> Tensor:
    """Negative log-likelihood of the target's actions under the student's diagonal Gaussian: ``(K, B)``.

    Raises:
        ValueError: the shapes differ or are not ``(K, B, A)``.
    """
    _check(mean, std, target_actions)
    return -torch.distributions.Normal(mean, std, validate_args=False).log_prob(target_actions).sum(-1)


def cross_entropy(
    mean: Tensor, std: Tensor, target_mean: Tensor, target_std: Tensor, direction: Direction = "forward"
) -> Tensor:
    """Cross-entropy Hx(p, q) = -E_{a ~ p} log q(a) of two diagonal Gaussians ``(K, B, A)``: ``(K, B)``.

    "forward" is Hx(target, student), which has the gradient of the forward KL; "reverse" is Hx(student, target)
    (Czarnecki et al. 2019). It is KL(p || q) plus the entropy of p, so it is not 0 where both are equal.

    Raises:
        ValueError: the shapes differ or are not ``(K, B, A)``.
    """
    _check(mean, std, target_mean, target_std)
    if direction == "reverse":
        mean, std, target_mean, target_std = target_mean, target_std, mean, std
    ratio = (target_std.square() + (target_mean - mean).square()) / (2 * std.square())
    return (std.log() + ratio + 0.5 * math.log(2 * math.pi)).sum(-1)


EDGE = 0.95
"""From here on an action to copy counts as one at the bound of the task."""


def executed(actions: Tensor, target_actions: Tensor) -> Tensor:
    """Actions ``(K, B, A)`` as the task executes them, where only that matters: beyond a bound at which the target is.

    A policy that is not squashed (PPO's) may go beyond -1 and 1 and is clipped there. Where its target is at the same
    bound, both do the same, and nothing should pull the policy back: a policy of small networks follows a target that
    jumps between the bounds far better if it need not stop at them. Everywhere else the actions stay as they are, so
    that a policy beyond a bound finds its way back.
    """
    beyond = (target_actions.abs() >= EDGE) & (actions * target_actions.sign() >= 1)
    return torch.where(beyond, actions.clamp(-1, 1), actions)


def _gaussians(own: PolicyOutput, target: PolicyOutput) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Mean and standard deviation of both, before any squashing.

    A divergence that is invariant under invertible maps, as KL is, is that of the squashed policies too.
    """
    assert own.mean is not None and own.std is not None and target.mean is not None and target.std is not None
    return own.mean, own.std, target.mean, target.std


Divergence = Callable[[PolicyOutput, PolicyOutput], Tensor]
"""Distance ``(K, B)`` of a learner's policy, given first, from its target's."""

DIVERGENCES: dict[str, Divergence] = {
    "action_mse": lambda own, target: action_mse(own.actions, target.actions),
    "action_huber": lambda own, target: action_huber(own.actions, target.actions),
    "gaussian_kl_forward": lambda own, target: gaussian_kl(*_gaussians(own, target), "forward"),
    "gaussian_kl_reverse": lambda own, target: gaussian_kl(*_gaussians(own, target), "reverse"),
    "wasserstein2": lambda own, target: wasserstein2(*_gaussians(own, target)),
}
"""What the setting ``divergence`` names: distance ``(K, B)`` of a learner's policy from its target's."""

TEACHER_DIVERGENCES: dict[str, Divergence] = {
    "action_mse": lambda own, target: action_mse(executed(own.actions, target.actions), target.actions),
    "action_huber": lambda own, target: action_huber(executed(own.actions, target.actions), target.actions),
    "gaussian_nll": lambda own, target: gaussian_nll(*_gaussians(own, target)[:3]),
    "cross_entropy_forward": lambda own, target: cross_entropy(*_gaussians(own, target), "forward"),
    "cross_entropy_reverse": lambda own, target: cross_entropy(*_gaussians(own, target), "reverse"),
}
"""What a student of a teacher can choose from, before those of ``DIVERGENCES``;
the negative log-likelihood is that of the teacher's mean."""


def divergence_of(divergence: str | Divergence, taught: bool = False) -> Divergence:
    """The divergence of a name, or a function itself.

    Args:
        divergence: a key of ``DIVERGENCES`` (of ``TEACHER_DIVERGENCES`` where ``taught``), or a function like theirs.
        taught: whether the target is a frozen teacher.

    Raises:
        PolicyKDError: the name is unknown, or it is no function.
    """
    return find("divergence", divergence, ChainMap(TEACHER_DIVERGENCES, DIVERGENCES) if taught else DIVERGENCES)


def _check(*tensors: Tensor) -> None:
    """Refuse shapes that broadcasting would quietly accept."""
    if tensors[0].ndim != 3 or any(tensor.shape != tensors[0].shape for tensor in tensors):
        shapes = ", ".join(str(tuple(tensor.shape)) for tensor in tensors)
        raise ValueError(f"a divergence needs tensors of one shape (K, B, A), got {shapes}")
