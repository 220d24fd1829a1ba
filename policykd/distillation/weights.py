"""How much each state counts in a distillation loss, and what is compared of two policies for that.

Every weight is ``(K, B)``, without gradient, of mean 1 over B.
The mean of 1 makes the strength of distillation independent of the weights' scale: ``alpha = 0`` is exactly the
unweighted loss. The exceptions are said where they are: a gate that no state passes is 0 everywhere, ``value_gate`` is
the gate itself, and ``published_code`` repeats a defect.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from policykd.core.networks import PolicyOutput
from policykd.core.registry import find
from policykd.learners.config import PPOConfig


class Comparison(NamedTuple):
    """Values of a source and a learner at B states, without gradient; what the method does not ask for is empty."""

    source_value: Tensor
    """V of the source's policy, by its own critics, ``(K, B)``."""
    own_value: Tensor
    """V of the learner's policy, by its own critics, ``(K, B)``."""
    advantages: Tensor
    """Q_m(s, a_source) - Q_m(s, a_own) by each of M critics, those of the learner and of its source, ``(K, M, B)``."""


Weight = Callable[[Comparison, Any], Tensor]
"""How much each state counts, ``(K, B)``, from what is compared there and the config."""
Compare = Callable[[PolicyOutput], Comparison]
"""What a weight looks at, given the learners' own answers."""
EMPTY = torch.empty(0)
"""Stands for values that the method does not ask for."""


class Student(Protocol):
    """What distillation needs of a learner."""

    @property
    def actor(self) -> Tensor:
        """The actors' parameters ``(K, P)``, changed in place."""

    def outputs(self, actor: Tensor, observations: Tensor) -> PolicyOutput:
        """What the policies answer at observations ``(K, B, O)``."""

    def value(self, observations: Tensor, policy: PolicyOutput) -> Tensor:
        """V(s) of the policies that answered so, ``(K, B)``."""


class HasCritics(Student, Protocol):
    """What weights that compare actions need, too."""

    critic: Tensor
    """The critics' parameters."""

    def q_values(self, critic: Tensor, observations: Tensor, actions: Tensor) -> Tensor:
        """Every critic's Q(s, a), ``(K, C, B)``."""


def by_values(
    learner: Student, states: Tensor, peer_states: Tensor, peer: PolicyOutput, peer_of: Tensor, student_of: Tensor
) -> Compare:
    """V_peer(s) by the peer's critics, and V_self(s) by the learner's own.

    Where discounts differ, the peer's value is rescaled to the learner's discount as if rewards were constant: a
    constant r is worth r / (1 - gamma).
    """

    def compare(own: PolicyOutput) -> Comparison:
        source_value = learner.value(peer_states, peer)[peer_of]
        if isinstance(gamma := getattr(learner, "gamma", None), Tensor):
            ends = (1 - gamma).clamp_min(1e-4)
            source_value = source_value * ends[peer_of] / ends
        return Comparison(source_value, learner.value(states, own), EMPTY)

    return compare


def by_actions(
    learner: HasCritics, states: Tensor, peer_states: Tensor, peer: PolicyOutput, peer_of: Tensor, student_of: Tensor
) -> Compare:
    """Q(s, a_peer) - Q(s, a_self) by the own critics and by the peer's, each in its own row."""

    def compare(own: PolicyOutput) -> Comparison:
        q_values, critic = learner.q_values, learner.critic
        mine = q_values(critic, states, peer.actions[peer_of]) - q_values(critic, states, own.actions)
        theirs = q_values(critic, peer_states, peer.actions) - q_values(critic, peer_states, own.actions[student_of])
        return Comparison(EMPTY, EMPTY, torch.cat((mine, theirs[peer_of]), dim=1))

    return compare


def uniform(peer_value: Tensor, own_value: Tensor) -> Tensor:
    """Every state counts 1, ``(K, B)``: unweighted mutual distillation."""
    _check(peer_value, own_value)
    return torch.ones_like(own_value)


def disadvantage(
    peer_value: Tensor,
    own_value: Tensor,
    alpha: float,
    *,
    scale_free: bool = False,
    weight_ratio: float = 1e4,
    std_floor: float = 1e-6,
) -> Tensor:
    """DPD's weight exp(alpha * xi), xi = V_peer(s) - V_self(s), normalised to mean 1 (Lai et al. 2020, equation 11).

    Args:
        peer_value: the peer's value of each state ``(K, B)``.
        own_value: the learner's own value of the same states ``(K, B)``.
        alpha: confidence in xi; 0 gives exactly 1 everywhere.
        scale_free: divide xi by its standard deviation over the batch, so that the weights do not change when
            rewards are scaled; a batch of equal xi then gets uniform weights.
        weight_ratio: the largest weight of a batch is at most this many times the smallest.
        std_floor: added to that standard deviation.

    Returns:
        ``(K, B)`` of mean 1 over B, without gradient.

    Raises:
        ValueError: the values are not both ``(K, B)``.
    """
    _check(peer_value, own_value)
    xi = (peer_value - own_value).detach()
    if scale_free:
        xi = xi / (xi.std(1, correction=0, keepdim=True) + std_floor)
    # A shift of xi cancels in the mean. Measured from the largest, the bound cuts the least of the weights and keeps
    # the order of the greatest; cutting exp(alpha * xi) itself would make all states equal where the peer is far ahead.
    exponent = alpha * (xi - xi.amax(1, keepdim=True))
    return _mean_one(exponent.clamp_min(-math.log(weight_ratio)).exp())


def hard_gate(peer_value: Tensor, own_value: Tensor) -> Tensor:
    """Only states where the peer is better count: 1(xi > 0) over its mean, ``(K, B)`` (Lai et al. 2020, equation 9).

    All weights are 0 where the peer is better at no state of the batch.
    """
    _check(peer_value, own_value)
    passes = (peer_value > own_value).to(own_value.dtype)
    return passes / passes.mean(1, keepdim=True).clamp_min(1.0 / passes.shape[1])


def value_gate(teacher_value: Tensor, own_value: Tensor) -> Tensor:
    """1 where the teacher's value is higher and 0 elsewhere, ``(K, B)`` (Czarnecki et al. 2019, proposition 2).

    Unlike ``hard_gate`` it is not normalised: the fewer states the teacher is better at, the weaker its loss.
    """
    _check(teacher_value, own_value)
    return (teacher_value > own_value).to(own_value.dtype)


def paired_advantage(advantages: Tensor, pessimism: float = 1.0) -> Tensor:
    """DPD's weight with both actions judged by the same critics, mean 1 over B where any state counts: ``(K, B)``.

    xi = mean_m Delta_m - pessimism * std_m Delta_m, with Delta_m = Q_m(s, a_peer) - Q_m(s, a_own): errors that
    a critic makes for both actions cancel, and nothing is copied where critics disagree. The weight is max(0, xi).

    Args:
        advantages: Delta of each of M critics ``(K, M, B)``.
        pessimism: 0 trusts the mean of the critics.

    Raises:
        ValueError: the advantages are not ``(K, M, B)``.
    """
    if advantages.ndim != 3:
        raise ValueError(f"paired advantages must be (K, M, B), got {tuple(advantages.shape)}")
    lower = advantages.mean(1) - pessimism * advantages.std(1, correction=0)
    gain = lower.clamp_min(0.0)
    return gain / gain.mean(1, keepdim=True).clamp_min(1e-8)


def published_code(peer_value: Tensor, own_value: Tensor, alpha: float) -> Tensor:
    """What the released DPD-DDPG code does: its weights cancel, and the batch is summed instead of averaged.

    That code clips exp(alpha * xi) to [0.01, 100], divides by the batch sum, and multiplies weights ``(B, 1)`` with
    distances ``(B,)``. The product broadcasts to ``(B, B)``, whose sum is (sum of weights) * (sum of distances). Seen
    from one state, its weight is the sum of all the weights, here in units of the mean over B: the constant B.
    """
    _check(peer_value, own_value)
    weights = (alpha * (peer_value - own_value).detach()).exp().clamp(0.01, 100.0)
    weights = weights / weights.sum(1, keepdim=True)
    return (weights.sum(1, keepdim=True) * weights.shape[1]).expand_as(weights)


def published_code_ppo(peer_value: Tensor, own_value: Tensor, alpha: float) -> Tensor:
    """What the released DPD-PPO code does: it prefers states where the *learner* is better, and scales by 1/B.

    That code weighs by exp(alpha * (V_self - V_peer)), the reverse of the paper's sign, clips to [0.01, 100], brings
    the sum over the batch to 1 and then takes the mean over the batch as well: here weights have mean 1/B.
    """
    _check(peer_value, own_value)
    weights = (alpha * (own_value - peer_value).detach()).exp().clamp(0.01, 100.0)
    return weights / weights.sum(1, keepdim=True)


def effective_sample_size(weights: Tensor) -> Tensor:
    """How many of the B states the weights ``(K, B)`` amount to: (sum w)^2 / sum w^2, ``(K,)``, from 1 to B."""
    return weights.sum(1).square() / weights.square().sum(1).clamp_min(1e-12)


def _by_disadvantage(seen: Comparison, config: Any) -> Tensor:
    return disadvantage(
        seen.source_value, seen.own_value, config.alpha, scale_free=config.scale_free, weight_ratio=config.weight_ratio
    )


def _as_released(seen: Comparison, config: Any) -> Tensor:
    released = published_code_ppo if isinstance(config, PPOConfig) else published_code
    return released(seen.source_value, seen.own_value, config.alpha)


WEIGHTS: dict[str, Weight] = {
    "disadvantage": _by_disadvantage,
    "hard_gate": lambda seen, config: hard_gate(seen.source_value, seen.own_value),
    "value_gate": lambda seen, config: value_gate(seen.source_value, seen.own_value),
    "paired_advantage": lambda seen, config: paired_advantage(seen.advantages, config.pessimism),
    "published_code": _as_released,
}
"""What the column ``weight`` of a method names; "paired_advantage" needs ``compares="actions"``, the others values."""


def weight_of(weight: str | Weight | None) -> Weight | None:
    """Look up a weight by its name in ``WEIGHTS``; a function is returned as it is, None is uniform.

    Raises:
        PolicyKDError: the name is unknown, or it is not a function.
    """
    return None if weight is None else find("weight", weight, WEIGHTS)


def _mean_one(weights: Tensor) -> Tensor:
    return weights / weights.mean(1, keepdim=True)


def _check(first: Tensor, second: Tensor) -> None:
    """Refuse shapes that broadcasting would quietly accept: (B, 1) times (B,) is how DPD's weights were lost."""
    if first.ndim != 2 or first.shape != second.shape:
        raise ValueError(f"weights need two tensors (K, B), got {tuple(first.shape)} and {tuple(second.shape)}")
