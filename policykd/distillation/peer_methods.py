"""How peers learn from one another (``DualStudent``): a method is a row of choices, not a class.

==================  ======  ======  =================  ==================  ======  ==================================
method              source  states  weight             coupling            replay  targets by
==================  ======  ======  =================  ==================  ======  ==================================
dpd                 peer    peer    disadvantage       apart               own     own critics
dpd_hard            peer    peer    hard gate          apart               own     own critics
mutual              peer    peer    uniform            apart               own     own critics
one_way             first   peer    disadvantage       apart               own     own critics
dpd_shared          peer    peer    disadvantage       apart               pooled  own critics
dpd_pooled          peer    pooled  disadvantage       apart               pooled  own critics
mutual_shared       peer    pooled  uniform            apart               pooled  own critics
best_shared         best    pooled  uniform            apart               pooled  own critics
mutual_joint        peer    pooled  uniform            joint               pooled  own critics
paired              peer    pooled  paired advantage   apart               pooled  own critics
paired_joint        peer    pooled  paired advantage   joint               pooled  own critics
p3s                 best    pooled  uniform, adaptive  joint               pooled  own critics
piekd               best    pooled  uniform            apart, critics too  pooled  own critics
share_replay        none                                                   pooled  own critics
advice              none                                                   pooled  own critics; peers propose actions
council             none                                                   pooled  all critics
double_actor        none                                                   pooled  own critics, of all actors
independent         none                                                   own     own critics
dpd_published_code  peer    peer    as released        apart               own     own critics
==================  ======  ======  =================  ==================  ======  ==================================
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from policykd.core.errors import PolicyKDError
from policykd.core.registry import check_row, rows
from policykd.distillation.weights import Weight, weight_of


@dataclass(frozen=True)
class PeerMethod:
    """How peers learn from one another; hand one in as ``method=``, or add it to ``PEER_METHODS``."""

    name: str
    summary: str
    source: Literal["peer", "first", "best"] | None = "peer"
    """Who is copied: the peer; only the first learner of each group, by the others; only the one whose latest training
    episodes returned most; or nobody."""
    states: Literal["own", "peer", "pooled"] = "peer"
    """At whose states: the learner's own, its peer's, or those of its whole group."""
    weight: str | Weight | None = None
    """How much each state counts: a name in ``weights.WEIGHTS``, or a function. None: all alike, and nothing is
    compared."""
    compares: Literal["values", "actions"] = "values"
    """What a weight looks at: the values of both policies, each by its own critics; or what the critics of both say of
    both actions."""
    coupling: Literal["apart", "joint"] = "apart"
    """How distillation meets RL: in a gradient step of its own; or in the actor's loss, with the weight
    ``distill_coef`` relative to RL's, which is divided by mean |Q|."""
    adaptive: bool = False
    """Joint coupling: halve or double that weight so that the group stays about as far from its best peer as that peer
    moves (P3S)."""
    copies: Literal["policy", "policy and critics"] = "policy"
    """What is copied (PIEKD copies the critics too)."""
    replay: Literal["own", "pooled"] = "own"
    """Whose transitions the RL step samples: the learner's own or those of its whole group."""
    target: Literal["own", "group", "actors"] = "own"
    """What makes the targets of a critic: the learner's own critics; those of its whole group; or its own critics, of
    what every actor of the group would do (DARC)."""
    acting: Literal["own", "advised"] = "own"
    """What a learner does in its environment: what it chose; or that of all peers' proposals which its own critics
    value most."""

    def __post_init__(self) -> None:
        """Refuse what is none of a column's choices, and columns that contradict one another, in one line."""
        check_row(self, PeerMethod)
        weight_of(self.weight)
        for contradiction in self._contradictions():
            raise PolicyKDError(f"method {self.name}: {contradiction}")

    def _contradictions(self) -> Iterator[str]:
        """Columns that another column leaves without a meaning."""
        plain = PeerMethod.__dataclass_fields__
        if self.source is None:
            for column in ("states", "weight", "compares", "coupling", "adaptive", "copies"):
                if getattr(self, column) != plain[column].default:
                    yield f"{column} sets how to copy, but source=None copies nobody"
        if self.compares == "actions" and self.weight is None:
            yield "compares='actions' needs a weight: name one"
        if self.adaptive and self.coupling == "apart":
            yield "adaptive=True changes distill_coef, which coupling='apart' does not use: use 'joint'"
        if self.copies == "policy and critics" and self.coupling == "joint":
            yield "copies='policy and critics' is a separate step: use coupling='apart'"


PEER_METHODS: dict[str, PeerMethod] = rows(
    PeerMethod("dpd", "Dual Policy Distillation: copy the peer, more where it is better", weight="disadvantage"),
    PeerMethod(
        "dpd_hard", "DPD with the hard gate of equation 9: copy the peer only where it is better", weight="hard_gate"
    ),
    PeerMethod("mutual", "Unweighted mutual distillation: copy the peer everywhere"),
    PeerMethod(
        "one_way", "DPD in one direction: the others copy the first learner", source="first", weight="disadvantage"
    ),
    PeerMethod("dpd_shared", "DPD on top of one pooled replay", weight="disadvantage", replay="pooled"),
    PeerMethod(
        "mutual_shared", "Mutual distillation at the states of one pooled replay", states="pooled", replay="pooled"
    ),
    PeerMethod(
        "dpd_pooled", "DPD at the states of one pooled replay", states="pooled", weight="disadvantage", replay="pooled"
    ),
    PeerMethod(
        "paired",
        "Copy where the critics of both agree that the peer's action is better, on one pooled replay",
        states="pooled",
        weight="paired_advantage",
        compares="actions",
        replay="pooled",
    ),
    PeerMethod(
        "best_shared",
        "The others copy the best peer by training episodes, at the states of one pooled replay",
        source="best",
        states="pooled",
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
    PeerMethod(
        "double_actor",
        "No distillation: one replay, and targets between the worst and the best of all peers' actions (DARC)",
        source=None,
        replay="pooled",
        target="actors",
    ),
    PeerMethod(
        "advice",
        "No distillation: one replay, and each learner acts by the best of all peers' proposals",
        source=None,
        replay="pooled",
        acting="advised",
    ),
    PeerMethod(
        "mutual_joint",
        "Mutual distillation inside the actor's loss, on one pooled replay",
        states="pooled",
        coupling="joint",
        replay="pooled",
    ),
    PeerMethod(
        "paired_joint",
        "The paired advantage inside the actor's loss, on one pooled replay",
        states="pooled",
        weight="paired_advantage",
        compares="actions",
        coupling="joint",
        replay="pooled",
    ),
    PeerMethod(
        "p3s",
        "P3S (Jung et al. 2020): all stay near the best peer, as near as it moves, on one pooled replay",
        source="best",
        states="pooled",
        coupling="joint",
        adaptive=True,
        replay="pooled",
    ),
    PeerMethod(
        "piekd",
        "PIEKD (Hong et al. 2020): now and then the others copy the best peer's policy and critics; one pooled replay",
        source="best",
        states="pooled",
        copies="policy and critics",
        replay="pooled",
    ),
    PeerMethod("independent", "No distillation and no sharing: the baseline", source=None),
    PeerMethod(
        "dpd_published_code",
        "The released DPD code: its weights cancel, with PPO their sign is reversed (ablation)",
        weight="published_code",
    ),
)
"""Methods of ``DualStudent``."""
