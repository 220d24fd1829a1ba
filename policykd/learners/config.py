"""Every setting of a run, in one dataclass per backbone; the command line, config files and ``config.json`` read it.

Names are Stable-Baselines3's where SB3 has the setting. Settings of a learner (``learning_starts``, ``buffer_size``,
``train_freq``) count that learner's own environment steps. Settings of a run (``eval_freq``, ``log_freq``,
``checkpoint_freq``, the budget) count the steps of one group, all of its peers together.
"""

from __future__ import annotations

import math
import typing
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated

import tyro

from policykd.core.fields import change, fractions, not_negative, positive, require
from policykd.core.registry import NAME, NUMBER
from policykd.learners.distillation_config import DistillationConfig, Function, ReplayDistillationConfig
from policykd.learners.run_config import RunConfig


@dataclass(frozen=True)
class OffPolicyConfig(ReplayDistillationConfig, RunConfig):
    """Settings of all off-policy learners."""

    learning_rate: Annotated[float | Function, NUMBER] = 1e-3
    """Adam's learning rate of actor and critic (and of SAC's temperature); a number, or a function of what remains of
    the run, from 1 to 0, as SB3 takes it."""
    buffer_size: int = 1_000_000
    """Capacity of the replay, in transitions of each learner."""
    buffer_dtype: typing.Literal["float32", "float16"] = "float32"
    """Type in which the replay stores observations and actions; rewards stay float32. float16 halves the memory."""
    buffer_on_disk: bool = False
    """Keep the replay in an unnamed file on the run folder's disk, which ends with the run, instead of in memory."""
    learning_starts: int = 100
    """Initial steps of each learner, with uniformly random actions and no updates."""
    batch_size: int = 256
    """Transitions per gradient step and learner."""
    tau: float = 0.005
    """Polyak coefficient of the target networks."""
    gamma: float = 0.99
    """Discount factor."""
    n_steps: int = 1
    """n of n-step returns: rewards that a critic's target sums before it bootstraps."""
    n_envs: int = 1
    """Environments of each learner, stepped together."""
    train_freq: int = 1
    """Steps between updates, each of all n_envs environments of a learner."""
    gradient_steps: int = 1
    """Gradient steps at every update; -1: as many as the environment steps of a learner since the last."""
    net_arch: tuple[int, ...] = (400, 300)
    """Widths of the hidden layers of actor and critic."""
    activation_fn: typing.Literal["relu", "tanh", "elu"] = "relu"
    """Activation function of the hidden layers."""
    layer_norm: bool = False
    """Normalise every hidden layer before its activation (Ba et al. 2016)."""
    network: Annotated[str | Function | None, NAME] = None
    """Makes the actor's network of (inputs, outputs), and the critic's where that has none of its own: a function, or
    its name in ``NETWORKS``. None is an MLP of the settings above."""
    critic_network: Annotated[str | Function | None, NAME] = None
    """Makes the critic's network of (inputs, outputs)."""

    def __post_init__(self) -> None:
        """Refuse values that cannot work, each in one line."""
        ReplayDistillationConfig.__post_init__(self)
        RunConfig.__post_init__(self)
        positive(self, "learning_rate", "batch_size", "n_steps", "n_envs", "train_freq")
        rule = "must be positive, or -1 for as many as environment steps"
        require(self.gradient_steps > 0 or self.gradient_steps == -1, "gradient_steps", self.gradient_steps, rule)
        least = max(self.batch_size, self.distill_batch_size)
        rule = f"is smaller than a batch ({least}): raise it or lower the batch"
        require(self.buffer_size >= least, "buffer_size", self.buffer_size, rule)
        require(self.n_envs <= self.buffer_size, "n_envs", self.n_envs, "is more than the replay keeps: buffer_size")
        require(self.n_steps <= self.buffer_size, "n_steps", self.n_steps, "is more than the replay keeps: buffer_size")
        alone = self.n_envs == 1 or self.allocation == "equal"
        require(alone, "n_envs", self.n_envs, 'must be 1 with allocation="best", which assigns single environments')
        not_negative(self, "learning_starts")
        require(0 < self.tau <= 1, "tau", self.tau, "must lie in (0, 1]")
        fractions(self, "gamma")
        require(all(width > 0 for width in self.net_arch), "net_arch", self.net_arch, "needs positive widths")
        self._check_vary()

    @cached_property
    def updates_at_once(self) -> int:
        """Gradient steps at every update, as a number from 1 up: the most of any peer."""
        if "gradient_steps" in self.vary:
            return int(max(self.vary["gradient_steps"]))
        return self.gradient_steps if self.gradient_steps > 0 else self.train_freq * self.n_envs

    def _check_vary(self) -> None:
        """Every value of a varied setting must be able to stand for all."""
        if "gradient_steps" in self.vary:
            reason = "must be 1 where peers vary in gradient_steps"
            require(self.distill_freq == 1, "distill_freq", self.distill_freq, reason)
            interval = getattr(self, "target_update_interval", 1)
            require(interval == 1, "target_update_interval", interval, reason)
        for name, values in self.vary.items():
            known = [n for n in VARIABLE if n == "observations" or hasattr(self, n)]
            require(name in known, "vary", name, f"cannot differ between peers; choose from {', '.join(known)}")
            fits = isinstance(values, list | tuple) and len(values) > 0
            if name == "observations":
                require(fits, "vary.observations", values, "needs columns or names of groups for each peer")
                require(self.rebirth_freq == 0, "rebirth_freq", self.rebirth_freq, "must be 0 if peers see parts")
                continue
            require(fits and all(type(v) in (int, float) for v in values), f"vary.{name}", values, "must be numbers")
            if name in ("n_steps", "gradient_steps"):
                require(all(v % 1 == 0 and v > 0 for v in values), f"vary.{name}", values, "must be integers >= 1")
            rule = "is a schedule: give a number, or leave it out of vary"
            own = getattr(self, name)
            require(not callable(own), name, own, rule)
            for value in values:
                change(self, {name: value, "vary": {}})


VARIABLE = (
    "learning_rate",
    "gradient_steps",
    "gamma",
    "n_steps",
    "tau",
    "action_noise_std",
    "target_policy_noise",
    "target_entropy",
    "distill_learning_rate",
    "observations",
)
"""Settings that may have one value per peer, and the part of the observation that each peer sees."""


@dataclass(frozen=True)
class DDPGConfig(OffPolicyConfig):
    """Settings of DDPG learners; defaults are those of SB3's DDPG, but for the exploration noise (SB3 has none)."""

    action_noise_std: float = 0.1
    """Standard deviation of the Gaussian exploration noise, in actions scaled to [-1, 1]."""

    def __post_init__(self) -> None:
        """Refuse values that cannot work, each in one line."""
        super().__post_init__()
        not_negative(self, "action_noise_std")
        require(
            self.divergence not in ("gaussian_kl_forward", "gaussian_kl_reverse", "wasserstein2"),
            "divergence",
            self.divergence,
            "compares Gaussians, but DDPG and TD3 are deterministic: use action_mse or action_huber",
        )


@dataclass(frozen=True)
class TD3Config(DDPGConfig):
    """Settings of TD3 learners; defaults are those of SB3's TD3, but for the exploration noise (SB3 has none)."""

    policy_delay: int = 2
    """Critic updates per update of actor and target networks."""
    target_policy_noise: float = 0.2
    """Standard deviation of the noise added to the target policy's action."""
    target_noise_clip: float = 0.5
    """Clip range of that noise."""

    def __post_init__(self) -> None:
        """Refuse values that cannot work, each in one line."""
        super().__post_init__()
        positive(self, "policy_delay")
        not_negative(self, "target_policy_noise", "target_noise_clip")


@dataclass(frozen=True)
class SACConfig(OffPolicyConfig):
    """Settings of SAC learners; defaults are those of SB3's SAC."""

    learning_rate: Annotated[float | Function, NUMBER] = 3e-4
    """Adam's learning rate of actor, critics and temperature; a number, or a function of what remains of the run."""
    net_arch: tuple[int, ...] = (256, 256)
    """Widths of the hidden layers of actor and critics."""
    ent_coef: float | str = "auto"
    """Temperature, the weight of the entropy bonus. "auto" learns it for every learner from 1, "auto_0.1" from 0.1; a
    number keeps it fixed."""
    target_entropy: float | typing.Literal["auto"] = "auto"
    """Target entropy of a learned temperature; "auto" is minus the number of action dimensions."""
    target_update_interval: int = 1
    """Gradient steps between updates of the target networks, counted within one update as SB3 counts them."""
    soft_value: bool = False
    """In distillation, V(s) = Q(s, a) - temperature * log pi(a | s) instead of Q(s, a), for a = tanh(mean)."""

    def __post_init__(self) -> None:
        """Refuse values that cannot work, each in one line."""
        super().__post_init__()
        rule = 'must be "auto", "auto_" and a positive initial value, or a number >= 0'
        require(not math.isnan(self.initial_ent_coef), "ent_coef", self.ent_coef, rule)
        require(
            1 <= self.target_update_interval <= self.updates_at_once,
            "target_update_interval",
            self.target_update_interval,
            f"must be from 1 to gradient_steps={self.updates_at_once}: as in SB3, the count restarts at every update",
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


@dataclass(frozen=True)
class PPOConfig(DistillationConfig, RunConfig):
    """Settings of PPO learners; defaults are those of SB3's PPO."""

    pessimism: Annotated[float, tyro.conf.Suppress] = 1.0
    learning_rate: Annotated[float | Function, NUMBER] = 3e-4
    """Adam's learning rate of policy and value network; a number, or a function of what remains of the run."""
    learning_rate_schedule: typing.Literal["constant", "linear"] = "constant"
    """How the learning rate falls over the run; linear ends at 0."""
    n_envs: int = 1
    """Environments of each learner, stepped together."""
    n_steps: int = 2048
    """Steps per rollout in each of these environments; an update follows each rollout."""
    batch_size: int = 64
    """Steps per minibatch and learner."""
    n_epochs: int = 10
    """Epochs over the rollout per update."""
    gamma: float = 0.99
    """Discount factor."""
    gae_lambda: float = 0.95
    """Lambda of generalised advantage estimation: trades bias against variance."""
    clip_range: float = 0.2
    """The probability ratio of the surrogate loss is clipped to 1 +- clip_range."""
    clip_range_schedule: typing.Literal["constant", "linear"] = "constant"
    """How the clip range falls over the run."""
    normalize_advantage: bool = True
    """Normalise the advantages of every minibatch to mean 0 and standard deviation 1."""
    ent_coef: float = 0.0
    """Weight of the entropy bonus in the loss."""
    vf_coef: float = 0.5
    """Weight of the value network's squared error in the loss."""
    max_grad_norm: float = 0.5
    """Maximum norm of a learner's gradient, over policy and value network together."""
    target_kl: float | None = None
    """SB3 can stop an update at this divergence. Here learners share Adam's count of steps: None only."""
    net_arch: tuple[int, ...] = (64, 64)
    """Widths of the hidden layers of the policy and, apart from it, of the value network."""
    activation_fn: typing.Literal["tanh", "relu", "elu"] = "tanh"
    """Activation function of the hidden layers."""
    layer_norm: bool = False
    """Normalise every hidden layer before its activation (Ba et al. 2016)."""
    network: Annotated[str | Function | None, NAME] = None
    """Makes the policy's network of (inputs, outputs), and the value network where that has none of its own: a
    function, or its name in ``NETWORKS``. None is an MLP of the settings above."""
    critic_network: Annotated[str | Function | None, NAME] = None
    """Makes the value network of (inputs, outputs)."""
    ortho_init: bool = True
    """Orthogonal initialisation; False uses that of torch's linear layers."""
    log_std_init: float = 0.0
    """Initial log standard deviation of the actions, in units of the environment."""
    normalize_observation: bool = False
    """Normalise what the networks see by each learner's own running mean and variance (VecNormalize's norm_obs)."""
    normalize_reward: bool = False
    """Divide rewards by the running standard deviation of each learner's own return (VecNormalize's norm_reward)."""
    distill_batch_size: int = 256
    """States per distillation step and learner (DPD section 4.1: 256)."""
    distill_freq: int = 1
    """PPO updates between distillations."""
    distill_gradient_steps: int = 10
    """Distillation steps after such a PPO update."""
    distill_optimizer: typing.Literal["own", "shared"] = "own"
    """Distil with a separate Adam, or with PPO's (as the released DPD-PPO code does)."""

    def __post_init__(self) -> None:
        """Refuse values that cannot work, each in one line."""
        DistillationConfig.__post_init__(self)
        RunConfig.__post_init__(self)
        positive(self, "learning_rate", "n_envs", "n_steps", "batch_size", "n_epochs", "clip_range", "max_grad_norm")
        positive(self, "distill_freq", "distill_gradient_steps")
        fractions(self, "gamma", "gae_lambda")
        not_negative(self, "ent_coef", "vf_coef")
        require(self.n_steps * self.n_envs > 1, "n_steps", self.n_steps, "is too small for a rollout: raise it")
        rule = "is not supported: learners share Adam's step count; leave it out"
        require(self.target_kl is None, "target_kl", self.target_kl, rule)
        require(all(width > 0 for width in self.net_arch), "net_arch", self.net_arch, "needs positive widths")


Config = OffPolicyConfig | PPOConfig
"""What every backbone's config is."""
CONFIGS: dict[str, type[Config]] = {"ddpg": DDPGConfig, "td3": TD3Config, "sac": SACConfig, "ppo": PPOConfig}
"""Those of the backbones that are here; ``LEARNERS`` also knows others."""
