"""Twin delayed DDPG (Fujimoto et al. 2018, algorithm 1), K learners at once: DDPG with three changes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from policykd.core.draws import standard_normal
from policykd.learners.config import TD3Config
from policykd.learners.ddpg import DDPG
from policykd.learners.settings import per_action


class TD3(DDPG):
    """DDPG with twin critics, smoothed target actions, and actors and targets updated every ``policy_delay`` steps."""

    name = "td3"
    config_type = TD3Config
    sb3: ClassVar[str | None] = "td3"
    critics = 2
    config: TD3Config

    def __init__(
        self,
        observation_size: int,
        action_size: int,
        config: TD3Config,
        generators: Sequence[np.random.Generator],
        device: torch.device | str = "cpu",
    ) -> None:
        super().__init__(observation_size, action_size, config, generators, device)
        self.target_noise_std = per_action(self.settings.get("target_policy_noise"))

    def draw_noise(self, batch_size: int) -> Tensor:
        """Standard normal noise ``(K, B, A)`` for the target policy, each learner's from its own generator."""
        noise = standard_normal(self.generators, batch_size, self.action_size)
        return torch.from_numpy(noise).to(self.actor.device)

    def actor_updates(self, n_updates: int) -> int:
        """How many of the first ``n_updates`` gradient steps also update the actors."""
        return n_updates // self.config.policy_delay

    def updates_targets(self, n_updates: int) -> bool:
        """Whether gradient step number ``n_updates`` (from 1) also updates the target networks."""
        return self.updates_actor(n_updates)

    def target_policy(self, observations: Tensor, noise: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Target policy smoothing: clip(mu'(s) + clip(noise)), ``(K, B, A)``."""
        assert noise is not None
        bound = self.config.target_noise_clip
        smoothing = (noise * self.target_noise_std).clamp(-bound, bound)
        return (self.policy(self.actor_target, observations) + smoothing).clamp(-1, 1), None
