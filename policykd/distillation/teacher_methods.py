"""How students learn from a frozen teacher (``TeacherStudent``): a method is a row of choices, not a class.

Hx is cross-entropy, T the teacher, S the student:

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

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

from policykd.core.errors import PolicyKDError
from policykd.core.fields import check_schedule
from policykd.core.registry import check_row, find, rows
from policykd.distillation.divergences import Divergence, divergence_of
from policykd.distillation.schedules import BY_STUDENT, SCHEDULES
from policykd.distillation.weights import Weight, weight_of


@dataclass(frozen=True)
class TeacherMethod:
    """How students learn from a frozen teacher; hand one in as ``method=``, or add it to ``TEACHER_METHODS``."""

    name: str
    summary: str
    states: Literal["own", "teacher", "mixed"] = "own"
    """At whose states: the student's, the teacher's, or those of both acting in turn (DAgger)."""
    weight: str | Weight | None = None
    """How much each state counts: a name in ``weights.WEIGHTS``, or a function. None: all alike, and values are not
    computed."""
    coupling: Literal["alone", "joint", "proximal"] = "joint"
    """How distillation meets RL: without RL; in one loss; in one loss, multiplied by PPO's ratio (PPD)."""
    aggregate: bool = False
    """Without RL: whether all states so far are learnt from, or those of the latest round only."""
    divergence: str | Divergence | None = "action_mse"
    """Where the setting is "auto": a name, where both sides are Gaussian or choose (then KL for action_mse); or a
    function, of any two. None: the teacher only gives rewards."""
    schedule: str | Callable[[float], float] = "constant"
    """How the teacher fades, where the setting is "auto"; a name, or a function of the progress."""
    reward: Literal["log_prob", "next_distance", "next_log_prob", "value"] | None = None
    """The teacher's reward (Czarnecki et al. 2019, table 1)."""
    environment_reward: bool = False
    """Whether the task's reward counts too, where the setting is None."""
    confident: bool = False
    """Weigh imitation against RL, state by state, by how well an imitator of the teacher does (ADVISOR)."""

    def __post_init__(self) -> None:
        """Refuse what is none of a column's choices, and columns that contradict one another, in one line."""
        check_row(self, TeacherMethod)
        weight_of(self.weight)
        if self.divergence is not None:
            divergence_of(self.divergence, taught=True)
        find("schedule", self.schedule, {**SCHEDULES, **dict.fromkeys(BY_STUDENT)})
        check_schedule("schedule", self.schedule)
        for contradiction in self._contradictions():
            raise PolicyKDError(f"method {self.name}: {contradiction}")

    def _contradictions(self) -> Iterator[str]:
        """Columns that another column leaves without a meaning."""
        alone = self.coupling == "alone"
        if self.divergence is None and (alone or self.confident or self.reward in (None, "next_distance")):
            yield "divergence=None copies nothing: it is for methods with RL and a reward from the teacher"
        if self.divergence is None and self.coupling == "proximal":
            yield "divergence=None leaves coupling='proximal' without a loss to multiply: use 'joint'"
        if alone and (self.reward or self.confident or self.schedule in BY_STUDENT):
            yield f"reward, confident and schedule={BY_STUDENT} are for methods with RL, but coupling='alone' has none"
        if not alone and self.states == "mixed":
            yield "states='mixed' needs coupling='alone': with RL only one of the two acts"
        if (self.weight is not None) + self.confident + (self.coupling == "proximal") > 1:
            yield "weight, confident and coupling='proximal' each weigh the states: choose one"

    @property
    def on_policy(self) -> bool:
        """Whether it needs a backbone that learns on policy."""
        plain = self.environment_reward and self.divergence is not None and self.reward is None
        off_policy_too = plain and self.coupling == "joint" and self.states == "own" and not self.confident
        return self.coupling != "alone" and not off_policy_too


TEACHER_METHODS: dict[str, TeacherMethod] = rows(
    TeacherMethod(
        "bc",
        "Behaviour cloning: the teacher acts, the student copies",
        "teacher",
        coupling="alone",
        aggregate=True,
        schedule="linear",
    ),
    TeacherMethod(
        "dagger",
        "DAgger (Ross et al. 2011): the student acts more and more, the teacher labels, all data are kept",
        "mixed",
        coupling="alone",
        aggregate=True,
        schedule="linear",
    ),
    TeacherMethod(
        "student_driven",
        "The student acts, the teacher labels, only the latest states are learnt from",
        coupling="alone",
        schedule="linear",
    ),
    TeacherMethod(
        "teacher_distill",
        "Teacher distill (Czarnecki et al. 2019): the teacher acts",
        "teacher",
        divergence="cross_entropy_forward",
    ),
    TeacherMethod(
        "on_policy_distill",
        "On-policy distill (Czarnecki et al. 2019): the student acts",
        divergence="cross_entropy_forward",
    ),
    TeacherMethod(
        "entropy_regularised",
        "Entropy regularised (Czarnecki et al. 2019): the teacher's log-probability is the reward",
        divergence=None,
        reward="log_prob",
    ),
    TeacherMethod(
        "n_distill",
        "N-distill (Czarnecki et al. 2019): on-policy distill, and the next state's distance is a cost",
        divergence="cross_entropy_forward",
        reward="next_distance",
    ),
    TeacherMethod(
        "expected_entropy_regularised",
        "Expected entropy regularised (Czarnecki et al. 2019)",
        divergence="cross_entropy_reverse",
        reward="next_log_prob",
    ),
    TeacherMethod(
        "teacher_value_reward",
        "Teacher V reward (Czarnecki et al. 2019): rewards shaped by the teacher's value",
        divergence=None,
        reward="value",
        environment_reward=True,
    ),
    TeacherMethod(
        "kickstarting",
        "Kickstarting (Schmitt et al. 2018): RL and a teacher that fades",
        divergence="cross_entropy_forward",
        schedule="linear",
        environment_reward=True,
    ),
    TeacherMethod(
        "qdagger",
        "QDagger (Agarwal et al. 2022): the teacher fades as the student's return nears its own",
        divergence="cross_entropy_forward",
        schedule="return_ratio",
        environment_reward=True,
    ),
    TeacherMethod(
        "value_gated",
        "Value gated (Czarnecki et al. 2019): copy only where the teacher's value is higher",
        weight="value_gate",
        divergence="cross_entropy_forward",
        environment_reward=True,
    ),
    TeacherMethod(
        "ppd",
        "Proximal Policy Distillation (Spigler 2025)",
        coupling="proximal",
        divergence="kl_forward",
        environment_reward=True,
    ),
    TeacherMethod(
        "advisor",
        "ADVISOR (Weihs et al. 2021): imitate where imitation is possible, RL elsewhere",
        divergence="cross_entropy_forward",
        environment_reward=True,
        confident=True,
    ),
)
"""Methods of ``TeacherStudent``."""
