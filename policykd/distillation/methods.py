"""The methods, as rows of one table: a method is a handful of choices, not a class.

Peers that learn from one another (``DualStudent``):

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

Students of a frozen teacher (``TeacherStudent``); Hx is cross-entropy, T the teacher, S the student:

============================  =======  =========  ==================  ==========  ==================  ============
method                        states   memory     divergence          coupling    teacher's reward    task's reward
============================  =======  =========  ==================  ==========  ==================  ============
bc                            teacher  all        action MSE          alone                           no
dagger                        mixed    all        action MSE          alone                           no
student_driven                own      latest     action MSE          alone                           no
teacher_distill               teacher  latest     Hx(T, S)            joint                           no
on_policy_distill             own      latest     Hx(T, S)            joint                           no
entropy_regularised           own      latest                         joint       log T(a)            no
n_distill                     own      latest     Hx(T, S)            joint       -Hx(T, S) at s'     no
expected_entropy_regularised  own      latest     Hx(S, T)            joint       log T(a') at s'     no
teacher_value_reward          own      latest                         joint       gamma V(s') - V(s)  yes
kickstarting                  own      latest     Hx(T, S)            joint                           yes
qdagger                       own      latest     Hx(T, S)            joint                           yes
value_gated                   own      latest     Hx(T, S), V_T>V_S   joint                           yes
ppd                           own      latest     KL(T || S)          proximal                        yes
advisor                       own      latest     Hx(T, S), weighted  joint                           yes
============================  =======  =========  ==================  ==========  ==================  ============

How far apart two policies are is the setting ``divergence``, the same for every method; what stands above is a
teacher's default where both sides are Gaussian.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor

from policykd.distillation import weights
from policykd.learners.config import DistillationConfig, PPOConfig

Weight = Callable[[Tensor, Tensor, Any], Tensor]


@dataclass(frozen=True)
class Method:
    """Who teaches whom, where and how much; and how this meets reinforcement learning."""

    summary: str
    source: Literal["peer", "first", "teacher", "itself"] | None = "peer"
    """Who is copied: the peer; only the first learner of each group, by the others; a frozen teacher; what the learner
    itself was at the beginning; or nobody."""
    states: Literal["own", "peer", "teacher", "mixed"] = "peer"
    """At whose states: the learner's own, its peer's, the teacher's, or those of both acting in turn (DAgger)."""
    weight: Weight | None = None
    """How much each state counts, from the source's value, the own value and the config. None: all alike, and the
    values are not computed."""
    replay: Literal["own", "pooled"] = "own"
    """Whose transitions the RL step of peers samples: the learner's own or those of its whole group."""
    coupling: Literal["step", "alone", "joint", "proximal"] = "step"
    """How distillation meets RL: a step of its own after each RL step of the policy; without RL; in one loss; in one
    loss, multiplied by PPO's ratio (PPD)."""
    aggregate: bool = False
    """Without RL: whether all states so far are learnt from, or those of the latest round only."""
    divergence: str | None = "action_mse"
    """Where the setting is "auto" and both sides are Gaussian; None: the teacher speaks through rewards alone."""
    schedule: str = "constant"
    """How the teacher fades, where the setting is "auto"."""
    reward: Literal["log_prob", "next_distance", "next_log_prob", "value"] | None = None
    """What the teacher pays (Czarnecki et al. 2019, table 1)."""
    environment_reward: bool = False
    """Whether the task pays too, where the setting is None."""
    confident: bool = False
    """Weigh imitation against RL, state by state, by how well an imitator of the teacher does (ADVISOR)."""

    @property
    def on_policy(self) -> bool:
        """Whether a student of a teacher needs a backbone that learns on policy."""
        plain = self.coupling == "joint" and self.environment_reward and self.divergence is not None
        return self.coupling != "alone" and not (plain and not self.confident and self.source == "teacher")


def _disadvantage(peer_value: Tensor, own_value: Tensor, config: DistillationConfig) -> Tensor:
    return weights.disadvantage(
        peer_value, own_value, config.alpha, scale_free=config.scale_free, weight_ratio=config.weight_ratio
    )


def _hard_gate(peer_value: Tensor, own_value: Tensor, config: DistillationConfig) -> Tensor:
    return weights.hard_gate(peer_value, own_value)


def _value_gate(teacher_value: Tensor, own_value: Tensor, config: DistillationConfig) -> Tensor:
    return weights.value_gate(teacher_value, own_value)


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
"""Methods of ``DualStudent``."""


TEACHER_METHODS: dict[str, Method] = {
    "bc": Method(
        "Behaviour cloning: the teacher acts, the student copies",
        *("teacher", "teacher"),
        coupling="alone",
        aggregate=True,
        schedule="linear",
    ),
    "dagger": Method(
        "DAgger (Ross et al. 2011): the student acts more and more, the teacher labels, all data are kept",
        *("teacher", "mixed"),
        coupling="alone",
        aggregate=True,
        schedule="linear",
    ),
    "student_driven": Method(
        "The student acts, the teacher labels, only the latest states are learnt from",
        *("teacher", "own"),
        coupling="alone",
        schedule="linear",
    ),
    "teacher_distill": Method(
        "Teacher distill (Czarnecki et al. 2019): the teacher acts",
        *("teacher", "teacher"),
        coupling="joint",
        divergence="cross_entropy_forward",
    ),
    "on_policy_distill": Method(
        "On-policy distill (Czarnecki et al. 2019): the student acts",
        *("teacher", "own"),
        coupling="joint",
        divergence="cross_entropy_forward",
    ),
    "entropy_regularised": Method(
        "Entropy regularised (Czarnecki et al. 2019): the teacher's log-probability is the reward",
        *("teacher", "own"),
        coupling="joint",
        divergence=None,
        reward="log_prob",
    ),
    "n_distill": Method(
        "N-distill (Czarnecki et al. 2019): on-policy distill, and the next state's distance is a cost",
        *("teacher", "own"),
        coupling="joint",
        divergence="cross_entropy_forward",
        reward="next_distance",
    ),
    "expected_entropy_regularised": Method(
        "Expected entropy regularised (Czarnecki et al. 2019)",
        *("teacher", "own"),
        coupling="joint",
        divergence="cross_entropy_reverse",
        reward="next_log_prob",
    ),
    "teacher_value_reward": Method(
        "Teacher V reward (Czarnecki et al. 2019): rewards shaped by the teacher's value",
        *("teacher", "own"),
        coupling="joint",
        divergence=None,
        reward="value",
        environment_reward=True,
    ),
    "kickstarting": Method(
        "Kickstarting (Schmitt et al. 2018): RL and a teacher that fades",
        *("teacher", "own"),
        coupling="joint",
        divergence="cross_entropy_forward",
        schedule="linear",
        environment_reward=True,
    ),
    "qdagger": Method(
        "QDagger (Agarwal et al. 2022): the teacher fades as the student's return nears its own",
        *("teacher", "own"),
        coupling="joint",
        divergence="cross_entropy_forward",
        schedule="return_ratio",
        environment_reward=True,
    ),
    "value_gated": Method(
        "Value gated (Czarnecki et al. 2019): copy only where the teacher's value is higher",
        *("teacher", "own"),
        weight=_value_gate,
        coupling="joint",
        divergence="cross_entropy_forward",
        environment_reward=True,
    ),
    "ppd": Method(
        "Proximal Policy Distillation (Spigler 2025)",
        *("teacher", "own"),
        coupling="proximal",
        divergence="gaussian_kl_forward",
        environment_reward=True,
    ),
    "advisor": Method(
        "ADVISOR (Weihs et al. 2021): imitate where imitation is possible, RL elsewhere",
        *("teacher", "own"),
        coupling="joint",
        divergence="cross_entropy_forward",
        environment_reward=True,
        confident=True,
    ),
    "fine_tune": Method(
        "RL from a distilled student, held to what it was at first (begun by fine_tune())",
        *("itself", "own"),
        coupling="joint",
        divergence="gaussian_kl_forward",
        schedule="linear",
        environment_reward=True,
    ),
}
"""Methods of ``TeacherStudent``."""

METHODS: dict[str, Method] = {**PEER_METHODS, **TEACHER_METHODS}
