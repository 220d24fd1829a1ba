"""The settings of a teacher's students: those of a backbone (``config.py``), and those of teaching."""

from __future__ import annotations

import typing
from dataclasses import dataclass, fields
from typing import Annotated

import tyro

from policykd.core.errors import PolicyKDError
from policykd.core.fields import fractions, not_negative, positive, require
from policykd.core.registry import NAME
from policykd.distillation.observations import GROUPS, PARTS
from policykd.learners.config import Config, DDPGConfig, PPOConfig, SACConfig, TD3Config
from policykd.learners.distillation_config import Function

T = typing.TypeVar("T")
PEERS_ONLY = (
    "scale_free",
    "weight_ratio",
    "pessimism",
    "distill_recent",
    "distill_freq",
    "distill_gradient_steps",
    "distill_optimizer",
    "least_proposal",
    "best_ratio",
    "best_distance",
    "best_freq",
    "allocation",
    "allocation_floor",
    "allocation_episodes",
    "rebirth_freq",
    "rebirth",
    "rebirth_gradient_steps",
    "rebirth_perturbation",
)
"""Settings of peers, which keep their defaults here; so does ``vary``."""


@dataclass(frozen=True)
class TeachingConfig:
    """Settings of learning from a teacher, for every backbone."""

    divergence: Annotated[str | Function, NAME] = "auto"
    """How far apart student and teacher are at a state: action_mse, action_huber, kl_forward, kl_reverse, nll, mse,
    cross_entropy_forward, cross_entropy_reverse, gaussian_nll, wasserstein2, or a function. Forward is
    KL(teacher || student), which covers the teacher's mass; reverse is KL(student || teacher). "auto" is the method's
    own if both sides have action probabilities; otherwise the squared distance of actions, or nll if discrete."""
    temperature: float = 1.0
    """Discrete actions: both logits are divided by this, and the divergence is multiplied by its square, as for
    classifiers: above 1 softer, below 1 sharper."""
    q_temperature: float = 0.01
    """Teachers with Q-values (DQN, QRDQN): their policy is softmax(Q / q_temperature) (Rusu et al. 2015). The
    divergence mse copies the Q-values themselves."""
    variance_scale: float = 1.0
    """Factor on the teacher's variance: below 1 its Gaussian is narrower than it was trained to be."""
    teacher_std: float | None = None
    """Standard deviation assumed of a teacher that has none (TD3, DDPG, functions), in actions scaled to [-1, 1]."""
    distill_coef: float = 1.0
    """Weight lambda of the teacher's loss relative to RL's, before its schedule."""
    distill_schedule: Annotated[str | Function, NAME] = "auto"
    """How the teacher fades: constant, linear, exponential, cosine, return_ratio, held_kl, or a function of the
    progress from 0 to 1; "auto" is the method's own. Without RL it scales the learning rate. return_ratio is
    1 - (student - random) / (teacher - random) of returns, within 0 and 1; held_kl adapts lambda so that the
    divergence stays near kl_target; a cross-entropy or likelihood counts as the KL divergence it comes from."""
    kl_target: float = 0.1
    """Target divergence per state of held_kl."""
    distill_value_coef: float = 0.0
    """Weight of the squared error between the student's value and the teacher's; 0 distils no values. fine_tune
    never does."""
    environment_reward: bool | None = None
    """Whether the task's reward counts, in methods with RL; None is the method's own choice. Off policy and in
    fine_tune it always does."""
    teacher_reward_coef: float = 1.0
    """Weight of the teacher's reward, in methods that have one."""
    alpha: float = 1.0
    """ADVISOR: imitation weighs exp(-alpha * D(imitator, teacher)) at a state, RL the rest."""
    several_teachers: typing.Literal["mean", "best_value", "by_task", "by_environment"] = "mean"
    """How several teachers are combined: their mean; the one with the highest value at each state; the one that the
    function task_of selects; or by_environment: of T teachers, number e % T in each student's environment e."""
    student_observations: Annotated[str | tuple[int | str, ...] | Function | None, PARTS] = None
    """Part of the task's observation that the student sees: names of groups, columns, or a function from ``(B, O)`` to
    ``(B, P)``; None is all."""
    teacher_observations: Annotated[str | tuple[int | str, ...] | Function | None, PARTS] = None
    """Part of it that the teacher sees, likewise; None is all, or what it was loaded with (``observation_map``)."""
    observation_groups: Annotated[dict[str, tuple[int, ...]] | None, GROUPS] = None
    """Named columns, in addition to the task's own groups (docs/groups.md); on the command line NAME=0:3 or
    NAME=0,1,2."""
    history: int = 1
    """Number of latest observations of the episode that are stacked as the student's input."""
    gru: int | None = None
    """Number of gated recurrent units before the student's hidden layers, in methods without RL and with ppo; None
    for a feed-forward student."""
    bptt_steps: int = 16
    """gru: steps through which the loss is propagated back; distill_batch_size steps make a batch; with ppo
    batch_size steps do, and bptt_steps must divide n_steps."""
    burn_in: int = 4
    """gru: without RL, steps before these, which only warm up the hidden state and have no loss."""
    teacher_episodes: int = 10
    """Episodes for scoring the teacher, and random actions, before training; at least 1."""
    allow_weak_teacher: bool = False
    """Allow a teacher that is no better than random actions."""
    n_envs: int = 1
    """Environments of each learner, stepped together."""
    dataset_size: int = 200_000
    """Capacity of each learner's data set of labelled states, in methods without RL and off policy."""
    round_steps: int = 1_000
    """Without RL: environment steps of each learner per round (an iteration of DAgger), before its updates."""
    round_updates: int = 1_000
    """Without RL: gradient steps after each round."""
    beta_schedule: typing.Literal["linear", "exponential"] = "linear"
    """DAgger: the probability beta that the teacher acts, round by round."""
    beta_rounds: int = 15
    """DAgger: rounds over which a linear beta falls to 0."""
    beta_decay: float = 0.7
    """DAgger: an exponential beta is this to the power of the round."""
    collect_noise_std: float = 0.0
    """Without RL: standard deviation of Gaussian noise on executed actions, scaled to [-1, 1]; labels have no noise."""
    distill_batch_size: int = 256
    """States per gradient step without RL and, off policy, per distillation loss."""
    distill_learning_rate: float = 1e-3
    """Adam's learning rate without RL, and for distilling values."""
    anchor: typing.Literal["auto", "teacher", "student"] = "auto"
    """fine_tune: what the student is kept near at first: its teacher, or itself before fine-tuning (always with PPO).
    "auto" is the teacher if there is one."""
    anchor_steps: int | None = None
    """fine_tune: environment steps in which the pull towards the anchor fades, and off policy the leash lengthens; None
    is the whole budget."""
    anchor_distance: float = 0.1
    """fine_tune off policy: how far from the anchor the student may be in the end (the leash), a root mean square
    distance of actions scaled to [-1, 1] that grows from 0; the weight of the anchor's pull is adapted to hold it.
    Another distill_schedule sets that weight instead."""
    critic_steps: int = 20_000
    """fine_tune: initial environment steps that train the critic alone, with the actor frozen."""
    fine_tune_learning_rate: float = 1e-4
    """fine_tune off policy: Adam's learning rate of the actor (and of SAC's temperature); critics learn with
    learning_rate."""
    trial_episodes: int = 10
    """fine_tune off policy: whole training episodes on which a policy is tried. It replaces the one that is handed out
    if it returned more, by at least a standard error of the difference; 0 hands out the actor as it is, untried."""
    fine_tune_std: float = 0.1
    """fine_tune: standard deviation of the actions, in actions scaled to [-1, 1], fixed at first."""
    fixed_std_steps: int = 50_000
    """fine_tune: environment steps before this standard deviation is trained as well."""

    def __post_init__(self) -> None:
        """Refuse values that cannot work, each in one line."""
        super().__post_init__()  # type: ignore[misc]  # of the backbone's config, which comes after it
        positive(self, "history", "bptt_steps", "temperature", "q_temperature", "variance_scale", "teacher_episodes")
        positive(self, "n_envs", "dataset_size", "round_steps", "round_updates", "beta_rounds", "distill_batch_size")
        positive(self, "distill_learning_rate", "kl_target")
        not_negative(self, "distill_coef", "distill_value_coef", "teacher_reward_coef", "alpha", "collect_noise_std")
        not_negative(self, "critic_steps", "fixed_std_steps", "trial_episodes", "burn_in")
        require(self.teacher_std is None or self.teacher_std > 0, "teacher_std", self.teacher_std, "must be positive")
        require(self.gru is None or self.gru > 0, "gru", self.gru, "must be positive, or None")
        positive(self, "fine_tune_std", "fine_tune_learning_rate", "anchor_distance")
        fractions(self, "beta_decay")
        rule = "applies to peers, not to students of a teacher: leave it out"
        for known in fields(self):
            kept = known.name not in PEERS_ONLY or getattr(self, known.name) == known.default
            require(kept, known.name, getattr(self, known.name), rule)
        vary = getattr(self, "vary", {})
        require(not vary, "vary", vary, rule)


def _student_option(kind: type[T]) -> type[T]:
    """Keep what only peers have off the command line."""
    for name, hint in typing.get_type_hints(kind, include_extras=True).items():
        if name in PEERS_ONLY:
            kind.__annotations__[name] = Annotated[hint, tyro.conf.Suppress]
    return kind


@_student_option
@dataclass(frozen=True)
class TaughtPPOConfig(TeachingConfig, PPOConfig):
    """Settings of students with PPO's Gaussian policy, whose standard deviation does not depend on the state."""

    n_envs: int = 4
    """Environments of each learner, stepped together."""
    n_steps: int = 512
    """With RL: steps per rollout in each of these environments; an update follows each rollout."""
    normalize_observation: bool = True
    """Normalise what the networks see by each learner's own running mean and variance (VecNormalize's norm_obs)."""
    normalize_reward: bool = True
    """Divide rewards by the running standard deviation of each learner's own return (VecNormalize's norm_reward)."""
    log_std_init: float = -1.0
    """Logarithm of the standard deviation of the actions at the beginning, in units of the environment."""


@_student_option
@dataclass(frozen=True)
class TaughtDDPGConfig(TeachingConfig, DDPGConfig):
    """Deterministic students, with DDPG where they also learn by themselves."""

    net_arch: tuple[int, ...] = (64, 64)
    """Widths of the hidden layers of actor and critic."""


@_student_option
@dataclass(frozen=True)
class TaughtTD3Config(TeachingConfig, TD3Config):
    """Deterministic students, with TD3 where they also learn by themselves."""

    net_arch: tuple[int, ...] = (64, 64)
    """Widths of the hidden layers of actor and critics."""


@_student_option
@dataclass(frozen=True)
class TaughtSACConfig(TeachingConfig, SACConfig):
    """Squashed Gaussian students, with SAC where they also learn by themselves."""

    net_arch: tuple[int, ...] = (64, 64)
    """Widths of the hidden layers of actor and critics."""


TAUGHT_CONFIGS: dict[str, type[Config]] = {
    "ppo": TaughtPPOConfig,
    "ddpg": TaughtDDPGConfig,
    "td3": TaughtTD3Config,
    "sac": TaughtSACConfig,
}
"""Each student's settings by backbone."""


def taught_config(backbone: str, config_type: type[Config]) -> type[Config]:
    """The settings of students with a backbone; for a backbone of your own, its ``config_type``.

    Raises:
        PolicyKDError: its ``config_type`` is not a ``TeachingConfig``.
    """
    kind = TAUGHT_CONFIGS.get(backbone, config_type)
    if not issubclass(kind, TeachingConfig):
        raise PolicyKDError(f"backbone: {backbone} cannot be a student: its config_type must be a TeachingConfig, too")
    return kind
