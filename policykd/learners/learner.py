"""What the rest of the program asks of an algorithm; a class of your own that answers it is a backbone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Literal, Protocol

import numpy as np
import torch
from torch import Tensor
from typing_extensions import Self

from policykd.core.networks import PolicyOutput


class Learner(Protocol):
    """K learners of one algorithm; row k of every tensor is learner k.

    ``OffPolicyLearner`` and ``PPO`` are such classes; the easiest own one derives from one of them.
    """

    name: ClassVar[str]
    """The backbone's name, in run folders and checkpoints."""
    config_type: ClassVar[type[Any]]
    """Dataclass of its settings."""
    memory: ClassVar[Literal["replay", "rollout"]]
    """What it learns from: ``update(batch, ...)`` of a replay, or of rollouts as ``PPO``."""
    sb3: ClassVar[str | None]
    """The algorithm of SB3 with the same networks ("ddpg", "td3", "sac", "ppo"), or None: no SB3 zip is written."""
    gaussian: ClassVar[bool]
    """Whether its policies of continuous actions have a mean and a standard deviation."""
    discrete: bool
    """Whether its policies choose one of A actions: they answer with logits, and an action is 1 at the choice."""
    config: Any
    generators: list[np.random.Generator]
    action_size: int

    @classmethod
    def make(
        cls,
        observation_size: int,
        action_size: int,
        config: Any,
        generators: Sequence[np.random.Generator],
        device: torch.device | str,
        low: np.ndarray | None,
        high: np.ndarray | None,
    ) -> Self:
        """K learners for a task, ``low`` and ``high`` being the bounds ``(A,)`` of its actions.

        Both are None where one of A actions is chosen (Discrete).
        """

    @property
    def actor(self) -> Tensor:
        """The actors' parameters ``(K, P)``."""

    @property
    def critic(self) -> Tensor:
        """The critics' parameters."""

    def policy(self, actor: Tensor, observations: Tensor) -> Tensor:
        """Deterministic actions ``(K, B, A)`` in [-1, 1] at raw observations ``(K, B, O)``."""

    def outputs(self, actor: Tensor, observations: Tensor) -> PolicyOutput:
        """All that the policies say at observations ``(K, B, O)``; what divergences compare."""

    def explore(self, actor: Tensor, observations: Tensor, noise: Tensor) -> Tensor:
        """Actions to train with, ``(K, B, A)`` in [-1, 1] or choices, made of standard normal noise ``(K, B, A)``."""

    def value(self, observations: Tensor, policy: PolicyOutput) -> Tensor:
        """V(s) of the policies that answered so, ``(K, B)``."""

    def gradient_steps_in(self, steps: int) -> int:
        """About how many gradient steps follow from so many environment steps of each learner."""
