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

    ``OffPolicyLearner`` and ``PPO`` implement it; the easiest way to write your own is to derive from one of them.
    """

    name: ClassVar[str]
    """The backbone's name, in run folders and checkpoints."""
    config_type: ClassVar[type[Any]]
    """Dataclass of its settings."""
    memory: ClassVar[Literal["replay", "rollout"]]
    """Whether it learns from batches of a replay or from rollouts, as ``PPO`` does."""
    sb3: ClassVar[str | None]
    """The algorithm of SB3 with the same networks ("ddpg", "td3", "sac", "ppo"), or None: no SB3 zip is written."""
    gaussian: ClassVar[bool]
    """Whether its policies over continuous actions have a mean and a standard deviation."""
    discrete: bool
    """Whether actions are discrete: policies output logits, and an action is a one-hot vector."""
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
        """Make K learners for a task whose actions have the bounds ``low`` and ``high``, each ``(A,)``.

        Both are None where actions are discrete.
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
        """The policies' full output at observations ``(K, B, O)``: what divergences compare."""

    def explore(self, actor: Tensor, observations: Tensor, noise: Tensor) -> Tensor:
        """Training actions ``(K, B, A)``, in [-1, 1] or one-hot, given standard normal noise ``(K, B, A)``."""

    def value(self, observations: Tensor, policy: PolicyOutput) -> Tensor:
        """V(s) of the policies with this output, ``(K, B)``."""

    def gradient_steps_in(self, steps: int) -> int:
        """Approximate gradient steps that ``steps`` environment steps of each learner lead to."""
