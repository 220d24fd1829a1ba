"""What weights of states look at: values of a learner and its peer, or their actions judged by the same critics."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from policykd.core.networks import PolicyOutput
from policykd.distillation.weights import Comparison

Compare = Callable[[PolicyOutput], Comparison]
"""What a weight looks at, given the learners' own answers."""


EMPTY = torch.empty(0)


class Student(Protocol):
    """What distillation needs of a learner."""

    @property
    def actor(self) -> Tensor:
        """The actors' parameters ``(K, P)``, changed in place."""

    def outputs(self, actor: Tensor, observations: Tensor) -> PolicyOutput:
        """What the policies answer at observations ``(K, B, O)``."""

    def value(self, observations: Tensor, policy: PolicyOutput) -> Tensor:
        """V(s) of the policies that answered so, ``(K, B)``."""


@runtime_checkable
class HasCritics(Student, Protocol):
    """What weights that compare actions need, too."""

    critic: Tensor
    """The critics' parameters."""

    def q_values(self, critic: Tensor, observations: Tensor, actions: Tensor) -> Tensor:
        """Every critic's Q(s, a), ``(K, C, B)``."""


def by_values(
    learner: Student, states: Tensor, peer_states: Tensor, peer: PolicyOutput, peer_of: Tensor, student_of: Tensor
) -> Compare:
    """V_peer(s) by the peer's critics beside V_self(s) by the own ones.

    Where discounts differ, the peer's value is what it would be worth at the learner's own, were its rewards alike in
    every step: r for ever is worth r / (1 - gamma).
    """
    source_value = learner.value(peer_states, peer)[peer_of]
    if isinstance(gamma := getattr(learner, "gamma", None), Tensor):
        ends = (1 - gamma).clamp_min(1e-4)
        source_value = source_value * ends[peer_of] / ends
    return lambda own: Comparison(source_value, learner.value(states, own), EMPTY)


def by_actions(
    learner: Student, states: Tensor, peer_states: Tensor, peer: PolicyOutput, peer_of: Tensor, student_of: Tensor
) -> Compare:
    """Q(s, a_peer) - Q(s, a_self) by the own critics and by the peer's, each in its own row."""

    def compare(own: PolicyOutput) -> Comparison:
        assert isinstance(learner, HasCritics)
        q_values, critic = learner.q_values, learner.critic
        mine = q_values(critic, states, peer.actions[peer_of]) - q_values(critic, states, own.actions)
        theirs = q_values(critic, peer_states, peer.actions) - q_values(critic, peer_states, own.actions[student_of])
        return Comparison(EMPTY, EMPTY, torch.cat((mine, theirs[peer_of]), dim=1))

    return compare
