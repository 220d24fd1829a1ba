"""How far apart two policies are at a state, or two classifiers at an example: the losses of both modes.

Every divergence returns one number per state, ``(K, B)``, or example, ``(B,)``.

Actions and means are ``(K, B, A)`` in [-1, 1]; distances are summed over the action dimension, never averaged, so
that a divergence of two factorised Gaussians is that of their joint distribution.
"""

from __future__ import annotations

import math
from collections import ChainMap
from collections.abc import Callable
from functools import partial
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor

from policykd.core.errors import PolicyKDError
from policykd.core.registry import find
from policykd.distillation.categorical import categorical_cross_entropy, categorical_kl, categorical_nll, logits_mse

A = TypeVar("A")
Direction = Literal["forward", "reverse"]


def action_mse(actions: Tensor, target_actions: Tensor) -> Tensor:
    """Squared Euclidean distance of two actions, the D of DPD (Lai et al. 2020, section 3.2): ``(K, B)`` or ``(B,)``.

    Args:
        actions: the student's actions ``(K, B, A)``, or probabilities of classifiers ``(B, C)``.
        target_actions: those to copy.

    Raises:
        ValueError: the shapes differ or are others.
    """
    _check(actions, target_actions, least=2)
    return (actions - target_actions).square().sum(-1)


def action_huber(actions: Tensor, target_actions: Tensor, delta: float = 1.0) -> Tensor:
    """Huber distance (quadratic up to ``delta``, linear beyond), summed over dimensions; shapes as ``action_mse``.

    Raises:
        ValueError: the shapes differ or are others.
    """
    _check(actions, target_actions, least=2)
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
"""From this magnitude on, a target action counts as one at the task's bound."""


def executed(actions: Tensor, target_actions: Tensor) -> Tensor:
    """Actions ``(K, B, A)`` clipped to the task's bounds, but only where the target is at the same bound.

    An unsquashed policy (PPO's) may exceed -1 and 1, where the task clips it. If the target is at that bound, both
    execute the same action, so the loss must not pull the policy back: small networks follow a target that jumps
    between the bounds far better if they may overshoot. Everywhere else actions are not clipped, so that a policy
    beyond a bound keeps its gradient.
    """
    beyond = (target_actions.abs() >= EDGE) & (actions * target_actions.sign() >= 1)
    return torch.where(beyond, actions.clamp(-1, 1), actions)


# What follows compares whole answers, by what they are: of policies (``PolicyOutput``, tensors ``(K, B, .)``) or of a
# classifier (logits ``(B, C)``). It returns one number per state or example, ``(K, B)`` or ``(B,)``.


def kl_forward(own: Any, target: Any) -> Tensor:
    """KL(target || own), which covers the target's mass; Hinton's and Rusu's divergence of categoricals."""
    if _categorical(own, target):
        return categorical_kl(own.logits, target.logits)
    return gaussian_kl(*_gaussians(own, target), "forward")


def kl_reverse(own: Any, target: Any) -> Tensor:
    """KL(own || target), which seeks the target's mode."""
    if _categorical(own, target):
        return categorical_kl(target.logits, own.logits)
    return gaussian_kl(*_gaussians(own, target), "reverse")


def nll(own: Any, target: Any) -> Tensor:
    """Negative log-likelihood of the target's mode: its most likely class, or its mean action."""
    if _categorical(own, target):
        return categorical_nll(own.logits, target.logits)
    return gaussian_nll(*_gaussians(own, target)[:3])


def mse(own: Any, target: Any) -> Tensor:
    """Squared Euclidean distance of logits (or Q-values), or of actions."""
    if _categorical(own, target):
        return logits_mse(own.logits, target.logits)
    return action_mse(own.actions, target.actions)


def cross_entropy_forward(own: Any, target: Any) -> Tensor:
    """Hx(target, own), which has the gradient of the forward KL."""
    if _categorical(own, target):
        return categorical_cross_entropy(own.logits, target.logits)
    return cross_entropy(*_gaussians(own, target), "forward")


def cross_entropy_reverse(own: Any, target: Any) -> Tensor:
    """Hx(own, target) (Czarnecki et al. 2019)."""
    if _categorical(own, target):
        return categorical_cross_entropy(target.logits, own.logits)
    return cross_entropy(*_gaussians(own, target), "reverse")


def _mean_actions(own: Any, target: Any) -> tuple[Tensor, Tensor]:
    """The actions of both; of policies that choose, whose actions are 1 at the choice, the means: probabilities."""
    if _categorical(own, target):
        return own.logits.softmax(-1), target.logits.softmax(-1)
    return own.actions, target.actions


def _executed(own: Any, target: Any) -> tuple[Tensor, Tensor]:
    """The same, as the task executes the student's."""
    actions, target_actions = _mean_actions(own, target)
    return executed(actions, target_actions), target_actions


def _categorical(own: Any, target: Any) -> bool:
    """Whether both answers have logits; one of each kind cannot be compared."""
    kinds = [getattr(answer, "logits", None) is not None for answer in (own, target)]
    if kinds[0] != kinds[1]:
        raise PolicyKDError("divergence: only one of the two outputs has logits: they cannot be compared")
    return kinds[0]


def _gaussians(own: Any, target: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Means and standard deviations of both before tanh.

    KL is invariant under invertible maps, so it equals that of the squashed policies.
    """
    mean, std, target_mean, target_std = (getattr(x, name, None) for x in (own, target) for name in ("mean", "std"))
    if mean is None or std is None or target_mean is None or target_std is None:
        raise PolicyKDError(
            "divergence: compares Gaussians, but not both outputs have a mean and a standard deviation: use kl_forward "
            "of logits, mse of actions"
        )
    return mean, std, target_mean, target_std


Divergence = Callable[[Any, Any], Tensor]
"""Maps the learner's output and the target's to their distance, ``(K, B)`` or ``(B,)``."""

DIVERGENCES: dict[str, Divergence] = {
    "action_mse": lambda own, target: action_mse(*_mean_actions(own, target)),
    "action_huber": lambda own, target: action_huber(*_mean_actions(own, target)),
    "gaussian_kl_forward": lambda own, target: gaussian_kl(*_gaussians(own, target), "forward"),
    "gaussian_kl_reverse": lambda own, target: gaussian_kl(*_gaussians(own, target), "reverse"),
    "wasserstein2": lambda own, target: wasserstein2(*_gaussians(own, target)),
    "kl_forward": kl_forward,
    "kl_reverse": kl_reverse,
    "nll": nll,
    "mse": mse,
    "cross_entropy_forward": cross_entropy_forward,
    "cross_entropy_reverse": cross_entropy_reverse,
}
"""What the setting ``divergence`` names, for policies ``(K, B)`` and classifiers ``(B,)``."""

TEACHER_DIVERGENCES: dict[str, Divergence] = {
    "action_mse": lambda own, target: action_mse(*_executed(own, target)),
    "action_huber": lambda own, target: action_huber(*_executed(own, target)),
    "gaussian_nll": lambda own, target: gaussian_nll(*_gaussians(own, target)[:3]),
}
"""What a student of a teacher can choose from, before those of ``DIVERGENCES``;
the negative log-likelihood is that of the teacher's mean."""


def divergence_of(divergence: str | Divergence, taught: bool = False) -> Divergence:
    """Look up a divergence by name; a function is returned as it is.

    Args:
        divergence: a key of ``DIVERGENCES`` (of ``TEACHER_DIVERGENCES`` where ``taught``), or a function like theirs.
        taught: whether the target is a frozen teacher.

    Raises:
        PolicyKDError: the name is unknown, or it is neither a name nor a function.
    """
    return find("divergence", divergence, ChainMap(TEACHER_DIVERGENCES, DIVERGENCES) if taught else DIVERGENCES)


def softened(answer: A, temperature: float) -> A:
    """Divide the logits of an output by a temperature: above 1 softer, below 1 sharper (0.01 for Q-values).

    Raises:
        PolicyKDError: it has no logits, and the temperature is not 1.
    """
    logits = getattr(answer, "logits", None)
    if temperature == 1:
        return answer
    if logits is None:
        raise PolicyKDError(f"temperature: {temperature} softens logits, but these outputs have none: use 1")
    return answer._replace(logits=logits / temperature)  # type: ignore[attr-defined]


def distance(
    own: A, target: A, divergence: Divergence = kl_forward, temperature: float = 1.0, weight: Tensor | None = None
) -> Tensor:
    """T^2 * w * D of two softened outputs, for each state ``(K, B)`` or example ``(B,)``.

    The gradient of a divergence of softened logits scales as 1/T^2, which the factor undoes (Hinton et al. 2015).

    Args:
        own: the student's output.
        target: the teacher's output.
        divergence: D.
        temperature: T of both.
        weight: w, of the distance's shape; None is 1.

    Raises:
        ValueError: the divergence or the weight is of another shape than the answers.
    """
    found = divergence(softened(own, temperature), softened(target, temperature))
    logits = getattr(own, "logits", None)
    shape = own.actions.shape[:-1] if logits is None else logits.shape[:-1]  # type: ignore[attr-defined]
    for name, values in (("divergence", found), ("weight", weight)):
        if values is not None and values.shape != shape:
            raise ValueError(f"a {name} needs one number for each of {tuple(shape)}, got {tuple(values.shape)}")
    return temperature**2 * (found if weight is None else weight * found)


def at_temperature(divergence: Divergence, temperature: float) -> Divergence:
    """``distance`` at this temperature as a divergence; at temperature 1 the divergence itself."""
    return divergence if temperature == 1 else partial(distance, divergence=divergence, temperature=temperature)


def _check(*tensors: Tensor, least: int = 3) -> None:
    """Refuse shapes that broadcasting would quietly accept; with ``least=2`` the learner axis may be missing."""
    if not least <= tensors[0].ndim <= 3 or [tensor.shape for tensor in tensors] != [tensors[0].shape] * len(tensors):
        shapes = ", ".join(str(tuple(tensor.shape)) for tensor in tensors)
        raise ValueError(f"a divergence needs tensors of equal shape (K, B, A), got {shapes}")
