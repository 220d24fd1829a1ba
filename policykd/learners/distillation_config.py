"""The settings of learning from peers; ``config.py`` adds them to each backbone's own."""

from __future__ import annotations

import typing
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Annotated, Any

import tyro

from policykd.core.fields import check_schedule, fractions, not_negative, positive, read_fields, require
from policykd.core.registry import NAME

Function = Callable[..., Any]


@dataclass(frozen=True)
class DistillationConfig:
    """Settings of distilling from peers, for every backbone."""

    alpha: float = 1.0
    """Confidence in the value difference xi: a state has the weight exp(alpha * xi). 0 weighs all states equally."""
    scale_free: bool = True
    """Divide xi by its standard deviation over the batch, so that one alpha suits every reward scale. False is the
    paper's equation, with xi in units of return."""
    pessimism: float = 1.0
    """Method "paired": standard deviations of the critics' judgements by which the peer's action must be better."""
    weight_ratio: float = 1e4
    """Bound of the weights: the largest of a batch is at most this many times the smallest."""
    distill_recent: int | None = 1000
    """Distil at states of the peer's most recent transitions only (DPD section 4.1: 1000). None is its whole replay."""
    distill_batch_size: int = 64
    """States per distillation step and learner."""
    distill_learning_rate: float = 1e-4
    """Adam's learning rate of the distillation step, which has its own optimiser; not used with joint coupling."""
    divergence: Annotated[str | Function, NAME] = "action_mse"
    """How far apart two policies are at a state: action_mse, action_huber, gaussian_kl_forward, gaussian_kl_reverse,
    wasserstein2, kl_forward, kl_reverse, nll, mse, cross_entropy_forward, cross_entropy_reverse, or a function
    (``policykd.distillation.divergences``). gaussian_... and wasserstein2 compare Gaussians, those after them but mse
    Gaussians or choices; forward is KL(peer || learner), reverse KL(learner || peer)."""
    temperature: float = 1.0
    """Of choices: both logits are divided by this, and the divergence is multiplied by its square, as for classifiers
    and students of teachers."""
    distill_schedule: Annotated[str | Function, NAME] = "constant"
    """How the distillation step fades over the run: constant, linear, exponential, cosine, or a function of the
    progress from 0 to 1. It multiplies the step's learning rate; with joint coupling, ``distill_coef``."""

    def __post_init__(self) -> None:
        """Refuse values that cannot work, each in one line."""
        read_fields(self)
        require(
            self.alpha >= 0, "alpha", self.alpha, "must not be negative (states where the peer is better weigh more)"
        )
        not_negative(self, "pessimism")
        require(self.weight_ratio >= 1, "weight_ratio", self.weight_ratio, "must be at least 1")
        require(
            self.distill_recent is None or self.distill_recent >= 1,
            "distill_recent",
            self.distill_recent,
            "must be positive, or None for the whole replay",
        )
        positive(self, "distill_batch_size", "distill_learning_rate", "temperature")
        check_schedule("distill_schedule", self.distill_schedule)


@dataclass(frozen=True)
class ReplayDistillationConfig(DistillationConfig):
    """How learners with a replay distil from their peers, and what makes a group of them more than its learners."""

    distill_coef: float = 1.0
    """Joint coupling: weight of distillation relative to RL in the actor's loss."""
    distill_freq: int = 1
    """Actor updates between distillation steps."""
    distill_gradient_steps: int = 1
    """Distillation steps each time."""
    least_proposal: float = 0.1
    """Method "double_actor": weight of the worst action in a target; the best one gets the rest."""
    best_ratio: float = 2.0
    """Method "p3s": target distance of the peers from the best peer, in multiples of how far that moved since the last
    check."""
    best_distance: float = 0.05
    """Method "p3s": smallest such target, half the squared distance of actions."""
    best_freq: int = 250
    """Method "p3s": updates of the actors between two checks of that distance."""
    vary: Annotated[dict[str, Any], tyro.conf.Suppress] = field(default_factory=dict)
    """Settings with one value per peer, such as {"learning_rate": (3e-4, 1e-3)}; the command line has --vary.
    "observations" are what each peer sees: columns, a group's name such as qpos, or None for everything."""
    allocation: typing.Literal["equal", "best"] = "equal"
    """Who acts in a group's episodes: all peers equally; or mostly the one whose latest training episodes returned
    most, which needs a method with a pooled replay."""
    allocation_floor: float = 0.5
    """allocation="best": share of the environment steps that is split equally; the rest goes to the best peer."""
    allocation_episodes: int = 2
    """How many of its latest training episodes a peer is judged by, by their mean return: for allocation="best",
    rebirth, and methods that copy the best peer. At most 100."""
    rebirth_freq: int = 0
    """Environment steps of a group between rebirths, at which one of its peers is initialised again and taught by the
    best one. 0 is never. Needs a method with a pooled replay."""
    rebirth: typing.Literal["worst", "oldest"] = "worst"
    """Which peer: the one whose latest training episodes returned least; or each in turn."""
    rebirth_gradient_steps: int = 1_000
    """Distillation steps by which it is then taught, at states of the whole replay."""
    rebirth_perturbation: float = 1.25
    """The reborn peer takes the best peer's varied settings, each multiplied or divided by this number (1: unchanged),
    a discount by its horizon 1/(1 - gamma); n_steps, gradient_steps and distill_learning_rate stay its own."""

    def __post_init__(self) -> None:
        """Refuse values that cannot work, each in one line."""
        super().__post_init__()
        positive(self, "distill_freq", "distill_gradient_steps", "best_freq", "allocation_episodes")
        not_negative(self, "distill_coef", "best_ratio", "best_distance", "rebirth_freq", "rebirth_gradient_steps")
        fractions(self, "least_proposal", "allocation_floor")
        require(self.rebirth_perturbation >= 1, "rebirth_perturbation", self.rebirth_perturbation, "must be at least 1")
