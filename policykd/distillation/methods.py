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
dpd_pooled            peer       pooled  disadvantage        pooled
mutual_shared         peer       pooled  uniform             pooled
paired                peer       pooled  paired advantage    pooled
share_replay          none                                   pooled
council               none, targets by all critics           pooled
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
teacher's default where both sides are Gaussian. Of choices (Discrete), KL(T || S) stands for action MSE.
"""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor

from policykd.distillation import weights
from policykd.distillation.weights import Comparison
from policykd.learners.config import DistillationConfig, PPOConfig

Weight = Callable[[Comparison, Any], Tensor]
"""How much each state counts, ``(K, B)``, from what is compared there and the config."""


@dataclass(frozen=True)
class PeerMethod:
    """How peers learn from one another; hand one in as ``method=``, or add it to ``PEER_METHODS``."""

    name: str
    summary: str
    source: Literal["peer", "first"] | None = "peer"
    """Who is copied: the peer; only the first learner of each group, by the others; or nobody."""
    states: Literal["own", "peer", "pooled"] = "peer"
    """At whose states: the learner's own, its peer's, or those of its whole group."""
    weight: Weight | None = None
    """How much each state counts. None: all alike, and nothing is compared."""
    compares: Literal["values", "actions"] = "values"
    """What a weight looks at: the values of both policies, each by its own critics; or what the critics of both say of
    both actions."""
    replay: Literal["own", "pooled"] = "own"
    """Whose transitions the RL step samples: the learner's own or those of its whole group."""
    target: Literal["own", "group"] = "own"
    """Whose critics make the targets of a critic: the learner's own, or those of its whole group."""


@dataclass(frozen=True)
class TeacherMethod:
    """How students learn from a frozen teacher; hand one in as ``method=``, or add it to ``TEACHER_METHODS``."""

    name: str
    summary: str
    states: Literal["own", "teacher", "mixed"] = "own"
    """At whose states: the student's, the teacher's, or those of both acting in turn (DAgger)."""
    weight: Weight | None = None
    """How much each state counts. None: all alike, and values are not computed."""
    coupling: Literal["alone", "joint", "proximal"] = "joint"
    """How distillation meets RL: without RL; in one loss; in one loss, multiplied by PPO's ratio (PPD)."""
    aggregate: bool = False
    """Without RL: whether all states so far are learnt from, or those of the latest round only."""
    divergence: str | None = "action_mse"
    """Where the setting is "auto" and both sides are Gaussian, or choose (then KL for action_mse); None: the teacher
    speaks through rewards alone."""
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
        """Whether it needs a backbone that learns on policy."""
        plain = self.coupling == "joint" and self.environment_reward and self.divergence is not None
        return self.coupling != "alone" and not (plain and not self.confident)


def _disadvantage(seen: Comparison, config: DistillationConfig) -> Tensor:
    return weights.disadvantage(
        seen.source_value, seen.own_value, config.alpha, scale_free=config.scale_free, weight_ratio=config.weight_ratio
    )


def _hard_gate(seen: Comparison, config: DistillationConfig) -> Tensor:
    return weights.hard_gate(seen.source_value, seen.own_value)


def _value_gate(seen: Comparison, config: DistillationConfig) -> Tensor:
    return weights.value_gate(seen.source_value, seen.own_value)


def _published_code(seen: Comparison, config: DistillationConfig) -> Tensor:
    released = weights.published_code_ppo if isinstance(config, PPOConfig) else weights.published_code
    return released(seen.source_value, seen.own_value, config.alpha)


def _paired(seen: Comparison, config: DistillationConfig) -> Tensor:
    return weights.paired_advantage(seen.advantages, config.pessimism)


def _rows(*methods: PeerMethod) -> dict[str, PeerMethod]:
    return {method.name: method for method in methods}


PEER_METHODS: dict[str, PeerMethod] = _rows(
    PeerMethod("dpd", "Dual Policy Distillation: copy the peer, more where it is better", weight=_disadvantage),
    PeerMethod(
        "dpd_hard", "DPD with the hard gate of equation 9: copy the peer only where it is better", weight=_hard_gate
    ),
    PeerMethod("mutual", "Unweighted mutual distillation: copy the peer everywhere"),
    PeerMethod(
        "one_way",
        "DPD in one direction: the others copy the first learner",
        source="first",
        weight=_disadvantage,
    ),
    PeerMethod("dpd_shared", "DPD on top of one pooled replay", weight=_disadvantage, replay="pooled"),
    PeerMethod(
        "mutual_shared", "Mutual distillation at the states of one pooled replay", states="pooled", replay="pooled"
    ),
    PeerMethod(
        "dpd_pooled", "DPD at the states of one pooled replay", states="pooled", weight=_disadvantage, replay="pooled"
    ),
    PeerMethod(
        "paired",
        "Copy where the critics of both agree that the peer's action is better, on one pooled replay",
        states="pooled",
        weight=_paired,
        compares="actions",
        replay="pooled",
    ),
    PeerMethod("share_replay", "No distillation: learners share their transitions", source=None, replay="pooled"),
    PeerMethod(
        "council",
        "No distillation: one replay, and targets by the critics of the whole group",
        source=None,
        replay="pooled",
        target="group",
    ),
    PeerMethod("independent", "No distillation and no sharing: the baseline", source=None),
    PeerMethod(
        "dpd_published_code",
        "The released DPD code: its weights cancel, with PPO their sign is reversed (ablation)",
        weight=_published_code,
    ),
)
"""Methods of ``DualStudent``."""


TEACHER_METHODS: dict[str, TeacherMethod] = {
    "bc": TeacherMethod(
        "bc",
        "Behaviour cloning: the teacher acts, the student copies",
        "teacher",
        coupling="alone",
        aggregate=True,
        schedule="linear",
    ),
    "dagger": TeacherMethod(
        "dagger",
        "DAgger (Ross et al. 2011): the student acts more and more, the teacher labels, all data are kept",
        "mixed",
        coupling="alone",
        aggregate=True,
        schedule="linear",
    ),
    "student_driven": TeacherMethod(
        "student_driven",
        "The student acts, the teacher labels, only the latest states are learnt from",
        "own",
        coupling="alone",
        schedule="linear",
    ),
    "teacher_distill": TeacherMethod(
        "teacher_distill",
        "Teacher distill (Czarnecki et al. 2019): the teacher acts",
        "teacher",
        coupling="joint",
        divergence="cross_entropy_forward",
    ),
    "on_policy_distill": TeacherMethod(
        "on_policy_distill",
        "On-policy distill (Czarnecki et al. 2019): the student acts",
        "own",
        coupling="joint",
        divergence="cross_entropy_forward",
    ),
    "entropy_regularised": TeacherMethod(
        "entropy_regularised",
        "Entropy regularised (Czarnecki et al. 2019): the teacher's log-probability is the reward",
        "own",
        coupling="joint",
        divergence=None,
        reward="log_prob",
    ),
    "n_distill": TeacherMethod(
        "n_distill",
        "N-distill (Czarnecki et al. 2019): on-policy distill, and the next state's distance is a cost",
        "own",
        coupling="joint",
        divergence="cross_entropy_forward",
        reward="next_distance",
    ),
    "expected_entropy_regularised": TeacherMethod(
        "expected_entropy_regularised",
        "Expected entropy regularised (Czarnecki et al. 2019)",
        "own",
        coupling="joint",
        divergence="cross_entropy_reverse",
        reward="next_log_prob",
    ),
    "teacher_value_reward": TeacherMethod(
        "teacher_value_reward",
        "Teacher V reward (Czarnecki et al. 2019): rewards shaped by the teacher's value",
        "own",
        coupling="joint",
        divergence=None,
        reward="value",
        environment_reward=True,
    ),
    "kickstarting": TeacherMethod(
        "kickstarting",
        "Kickstarting (Schmitt et al. 2018): RL and a teacher that fades",
        "own",
        coupling="joint",
        divergence="cross_entropy_forward",
        schedule="linear",
        environment_reward=True,
    ),
    "qdagger": TeacherMethod(
        "qdagger",
        "QDagger (Agarwal et al. 2022): the teacher fades as the student's return nears its own",
        "own",
        coupling="joint",
        divergence="cross_entropy_forward",
        schedule="return_ratio",
        environment_reward=True,
    ),
    "value_gated": TeacherMethod(
        "value_gated",
        "Value gated (Czarnecki et al. 2019): copy only where the teacher's value is higher",
        "own",
        weight=_value_gate,
        coupling="joint",
        divergence="cross_entropy_forward",
        environment_reward=True,
    ),
    "ppd": TeacherMethod(
        "ppd",
        "Proximal Policy Distillation (Spigler 2025)",
        "own",
        coupling="proximal",
        divergence="kl_forward",
        environment_reward=True,
    ),
    "advisor": TeacherMethod(
        "advisor",
        "ADVISOR (Weihs et al. 2021): imitate where imitation is possible, RL elsewhere",
        "own",
        coupling="joint",
        divergence="cross_entropy_forward",
        environment_reward=True,
        confident=True,
    ),
}
"""Methods of ``TeacherStudent``."""

METHODS: ChainMap[str, Any] = ChainMap(PEER_METHODS, TEACHER_METHODS)
"""Both tables as one: a view, so that rows added to either are seen."""

Method = PeerMethod | TeacherMethod
