"""Every setting of a run, in one dataclass per backbone; the command line, config files and ``config.json`` read it.

Names are Stable-Baselines3's where SB3 has the setting. Settings of a learner (``learning_starts``, ``buffer_size``,
``train_freq``) count that learner's own environment steps. Settings of a run (``eval_freq``, ``log_freq``,
``checkpoint_freq``, the budget) count the steps of one group, all of its peers together.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from policykd.errors import PolicyKDError, nearest


@dataclass(frozen=True)
class DistillationConfig:
    """How a learner distils from its peers, whatever its backbone."""

    alpha: float = 1.0
    """Confidence in the value difference: a state weighs exp(alpha * xi). 0 weighs all states alike."""
    scale_free: bool = True
    """Divide xi by its standard deviation over the batch, so that one alpha suits every reward scale.
    False is the paper's equation, with xi in units of return."""
    weight_ratio: float = 1e4
    """Bound of the weights: the largest of a batch is at most this many times the smallest."""
    distill_recent: int | None = 1000
    """Distil at states of the peer's most recent transitions only (DPD section 4.1: 1000). None is its whole replay."""
    distill_batch_size: int = 64
    """States per distillation step and learner."""
    distill_learning_rate: float = 1e-4
    """Adam's learning rate of the distillation step, whose optimiser is apart from the actor's."""
    divergence: typing.Literal[
        "action_mse", "action_huber", "gaussian_kl_forward", "gaussian_kl_reverse", "wasserstein2"
    ] = "action_mse"
    """How far apart two policies are at a state. The last three compare Gaussians and need a learner that has one;
    forward is KL(peer || learner), reverse KL(learner || peer)."""
    distill_schedule: typing.Literal["constant", "linear", "exponential"] = "constant"
    """How the distillation step fades over the run: its learning rate is multiplied by this schedule."""

    def __post_init__(self) -> None:
        """Refuse values that cannot work, each in one line."""
        require(self.alpha >= 0, "alpha", self.alpha, "must not be negative (the peer's better states weigh more)")
        require(self.weight_ratio >= 1, "weight_ratio", self.weight_ratio, "must be at least 1")
        require(
            self.distill_recent is None or self.distill_recent >= 1,
            "distill_recent",
            self.distill_recent,
            "must be positive, or None for the whole replay",
        )
        require(self.distill_batch_size >= 1, "distill_batch_size", self.distill_batch_size, "must be positive")
        require(
            self.distill_learning_rate > 0,
            "distill_learning_rate",
            self.distill_learning_rate,
            "must be positive",
        )


@dataclass(frozen=True)
class RunConfig:
    """What a run measures and keeps, and how often (in environment steps of one group, all peers together)."""

    eval_freq: int = 10_000
    """Evaluate all learners every so many steps. 0 evaluates only at the end."""
    n_eval_episodes: int = 10
    """Episodes per learner and evaluation."""
    log_freq: int = 2_000
    """Write a row of progress every so many steps."""
    checkpoint_freq: int = 50_000
    """Save a checkpoint to go on from every so many steps. 0 saves only at the end (and at Ctrl-C)."""

    def __post_init__(self) -> None:
        """Refuse values that cannot work, each in one line."""
        require(self.eval_freq >= 0, "eval_freq", self.eval_freq, "must not be negative (0: only at the end)")
        require(self.n_eval_episodes >= 1, "n_eval_episodes", self.n_eval_episodes, "must be positive")
        require(self.log_freq >= 1, "log_freq", self.log_freq, "must be positive")
        require(self.checkpoint_freq >= 0, "checkpoint_freq", self.checkpoint_freq, "must not be negative")


@dataclass(frozen=True)
class OffPolicyConfig(DistillationConfig, RunConfig):
    """What all learners with a replay have in common."""

    learning_rate: float = 1e-3
    """Adam's learning rate of actor and critic (and of SAC's temperature)."""
    buffer_size: int = 1_000_000
    """Transitions that the replay keeps of each learner."""
    learning_starts: int = 100
    """A learner's first steps, taken with uniformly random actions and without updates."""
    batch_size: int = 256
    """Transitions per gradient step and learner."""
    tau: float = 0.005
    """Polyak coefficient of the target networks."""
    gamma: float = 0.99
    """Discount factor."""
    train_freq: int = 1
    """Environment steps of a learner between updates."""
    gradient_steps: int = 1
    """Gradient steps at every update."""
    net_arch: tuple[int, ...] = (400, 300)
    """Hidden layers of actor and critic (ReLU)."""

    def __post_init__(self) -> None:
        """Refuse values that cannot work, each in one line."""
        DistillationConfig.__post_init__(self)
        RunConfig.__post_init__(self)
        for name, value in vars(self).items():
            unbounded = name == "weight_ratio"  # infinity: no bound
            require(unbounded or not isinstance(value, float) or math.isfinite(value), name, value, "must be finite")
        for name in ("learning_rate", "batch_size", "train_freq", "gradient_steps"):
            require(getattr(self, name) > 0, name, getattr(self, name), "must be positive")
        require(
            self.buffer_size >= max(self.batch_size, self.distill_batch_size),
            "buffer_size",
            self.buffer_size,
            f"is smaller than a batch ({max(self.batch_size, self.distill_batch_size)}): raise it or lower the batch",
        )
        require(self.learning_starts >= 0, "learning_starts", self.learning_starts, "must not be negative")
        require(0 < self.tau <= 1, "tau", self.tau, "must lie in (0, 1]")
        require(0 <= self.gamma <= 1, "gamma", self.gamma, "must lie in [0, 1]")
        require(all(width > 0 for width in self.net_arch), "net_arch", self.net_arch, "needs positive widths")


@dataclass(frozen=True)
class DDPGConfig(OffPolicyConfig):
    """Settings of DDPG learners; defaults are those of SB3's DDPG, but for the exploration noise (SB3 has none)."""

    action_noise_std: float = 0.1
    """Standard deviation of the Gaussian exploration noise, in actions scaled to [-1, 1]."""

    def __post_init__(self) -> None:
        """Refuse values that cannot work, each in one line."""
        super().__post_init__()
        require(self.action_noise_std >= 0, "action_noise_std", self.action_noise_std, "must not be negative")
        require(
            self.divergence.startswith("action_"),
            "divergence",
            self.divergence,
            "compares Gaussians, and DDPG and TD3 are deterministic: use action_mse or action_huber",
        )


@dataclass(frozen=True)
class TD3Config(DDPGConfig):
    """Settings of TD3 learners; defaults are those of SB3's TD3, but for the exploration noise (SB3 has none)."""

    policy_delay: int = 2
    """Critic updates per update of actor and target networks."""
    target_policy_noise: float = 0.2
    """Standard deviation of the noise added to the target policy's action."""
    target_noise_clip: float = 0.5
    """Bound of that noise."""

    def __post_init__(self) -> None:
        """Refuse values that cannot work, each in one line."""
        super().__post_init__()
        require(self.policy_delay >= 1, "policy_delay", self.policy_delay, "must be positive")
        require(
            self.target_policy_noise >= 0,
            "target_policy_noise",
            self.target_policy_noise,
            "must not be negative",
        )
        require(self.target_noise_clip >= 0, "target_noise_clip", self.target_noise_clip, "must not be negative")


@dataclass(frozen=True)
class SACConfig(OffPolicyConfig):
    """Settings of SAC learners; defaults are those of SB3's SAC."""

    learning_rate: float = 3e-4
    """Adam's learning rate of actor, critics and temperature."""
    net_arch: tuple[int, ...] = (256, 256)
    """Hidden layers of actor and critics (ReLU)."""
    ent_coef: float | str = "auto"
    """Temperature: the weight of entropy beside the return. "auto" learns it for every learner from 1, "auto_0.1" from
    0.1; a number is kept."""
    target_entropy: float | typing.Literal["auto"] = "auto"
    """Entropy at which a learned temperature aims; "auto" is minus the number of action dimensions."""
    target_update_interval: int = 1
    """Gradient steps between updates of the target networks, counted within one update as SB3 counts them."""
    soft_value: bool = False
    """In distillation, V(s) = Q(s, a) - temperature * log pi(a | s) instead of Q(s, a), for a = tanh(mean)."""

    def __post_init__(self) -> None:
        """Refuse values that cannot work, each in one line."""
        super().__post_init__()
        rule = 'must be "auto", "auto_" and a positive number to start from, or a number from 0 up'
        require(not math.isnan(self.initial_ent_coef), "ent_coef", self.ent_coef, rule)
        require(
            1 <= self.target_update_interval <= self.gradient_steps,
            "target_update_interval",
            self.target_update_interval,
            f"must be from 1 to gradient_steps={self.gradient_steps}: as in SB3, every update counts anew",
        )

    @property
    def learns_ent_coef(self) -> bool:
        """Whether each learner's temperature is learned."""
        return isinstance(self.ent_coef, str)

    @property
    def initial_ent_coef(self) -> float:
        """The temperature to start from; NaN where ``ent_coef`` makes no sense."""
        if not isinstance(self.ent_coef, str):
            return self.ent_coef if self.ent_coef >= 0 else math.nan
        if self.ent_coef == "auto":
            return 1.0
        try:
            value = float(self.ent_coef.removeprefix("auto_"))
        except ValueError:
            return math.nan
        return value if self.ent_coef.startswith("auto_") and 0 < value < math.inf else math.nan


Config = OffPolicyConfig
"""What every backbone's config is."""

D = typing.TypeVar("D")


def require(condition: bool, name: str, value: object, rule: str) -> None:
    """Raise a one-line ``PolicyKDError`` about setting ``name`` unless ``condition`` holds."""
    if not condition:
        raise PolicyKDError(f"config: {name}={value!r} {rule}")


def change(config: D, changes: Mapping[str, Any]) -> D:
    """A copy of a dataclass with some fields changed; unknown names and values of the wrong type are errors."""
    hints = typing.get_type_hints(type(config))
    values = {}
    for name, value in changes.items():
        if name not in hints:
            raise PolicyKDError(f"config: unknown key {name!r} for {type(config).__name__}{nearest(name, hints)}")
        values[name] = _checked(name, value, hints[name])
    return dataclasses.replace(config, **values)  # type: ignore[type-var]


def _checked(name: str, value: Any, hint: Any) -> Any:
    """``value`` as type ``hint`` wants it (an int for a float and a list for a tuple are fine), or an error."""
    origin, choices = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Literal:
        fits = value in choices
    elif origin is tuple:
        fits = isinstance(value, list | tuple) and all(type(item) is choices[0] for item in value)
        value = tuple(value) if fits else value
    elif origin in (types.UnionType, typing.Union):
        for choice in choices:
            with contextlib.suppress(PolicyKDError):
                return _checked(name, value, choice)
        fits = False
    elif hint is float:
        fits = isinstance(value, float | int) and not isinstance(value, bool)
        value = float(value) if fits else value
    else:
        fits = type(value) is hint
    shown = hint.__name__ if isinstance(hint, type) and origin is None else str(hint).replace("typing.", "")
    require(fits, name, value, f"must be {shown}")
    return value
