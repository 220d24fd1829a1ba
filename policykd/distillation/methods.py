"""The methods, as rows of one table: a method is a handful of choices, not a class.

====================  =========  ======  ==================  ========
method                source     states  weight              replay
====================  =========  ======  ==================  ========
dpd                   peer       peer    disadvantage        own
dpd_hard              peer       peer    hard gate           own
mutual                peer       peer    uniform             own
one_way               first      peer    disadvantage        own
dpd_shared            peer       peer    disadvantage        pooled
share_replay          none                                   pooled
independent           none                                   own
dpd_published_code    peer       peer    as released         own
====================  =========  ======  ==================  ========

How far apart two policies are is the setting ``divergence``, the same for every method.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from policykd.config import DistillationConfig, PPOConfig
from policykd.distillation import weights

Weight = Callable[[Tensor, Tensor, DistillationConfig], Tensor]


@dataclass(frozen=True)
class Method:
    """Who teaches whom, where and how much; and whose transitions reinforcement learning sees.

    Distillation meets reinforcement learning by a step of its own, with its own optimiser, after each RL step of the
    policy.
    """

    summary: str
    source: Literal["peer", "first"] | None = "peer"
    """Who is copied: the peer; only the first learner of each group, by the others; or nobody."""
    states: Literal["own", "peer"] = "peer"
    """At whose states: the learner's own or its peer's."""
    weight: Weight | None = None
    """How much each state counts, from the peer's value, the own value and the config. None: all alike, and the
    values are not computed."""
    replay: Literal["own", "pooled"] = "own"
    """Whose transitions the RL step samples: the learner's own or those of its whole group."""


def _disadvantage(peer_value: Tensor, own_value: Tensor, config: DistillationConfig) -> Tensor:
    return weights.disadvantage(
        peer_value, own_value, config.alpha, scale_free=config.scale_free, weight_ratio=config.weight_ratio
    )


def _hard_gate(peer_value: Tensor, own_value: Tensor, config: DistillationConfig) -> Tensor:
    return weights.hard_gate(peer_value, own_value)


def _published_code(peer_value: Tensor, own_value: Tensor, config: DistillationConfig) -> Tensor:
    released = weights.published_code_ppo if isinstance(config, PPOConfig) else weights.published_code
    return released(peer_value, own_value, config.alpha)


PEER_METHODS: dict[str, Method] = {
    "dpd": Method("Dual Policy Distillation: copy the peer, more where it is better", weight=_disadvantage),
    "dpd_hard": Method(
        "DPD with the hard gate of equation 9: copy the peer only where it is better", weight=_hard_gate
    ),
    "mutual": Method("Unweighted mutual distillation: copy the peer everywhere"),
    "one_way": Method("DPD in one direction: the others copy the first learner", source="first", weight=_disadvantage),
    "dpd_shared": Method("DPD on top of one pooled replay", weight=_disadvantage, replay="pooled"),
    "share_replay": Method("No distillation: learners share their transitions", source=None, replay="pooled"),
    "independent": Method("No distillation and no sharing: the baseline", source=None),
    "dpd_published_code": Method(
        "The released DPD code: its weights cancel, with PPO their sign is reversed (ablation)", weight=_published_code
    ),
}

METHODS: dict[str, Method] = {**PEER_METHODS}
