"""Deep deterministic policy gradient (Lillicrap et al. 2016, algorithm 1), K learners at once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from policykd.core.networks import Loss, gradient
from policykd.learners.config import DDPGConfig
from policykd.learners.off_policy import OffPolicyLearner, beside_teacher
from policykd.learners.settings import per_action
from policykd.memory.replay import Batch


class DDPG(OffPolicyLearner):
    """Deterministic actors with target networks, trained to maximise their critic (arguments: OffPolicyLearner)."""

    name = "ddpg"
    config_type = DDPGConfig
    sb3: ClassVar[str | None] = "ddpg"
    config: DDPGConfig

    def __init__(
        self,
        observation_size: int,
        action_size: int,
        config: DDPGConfig,
        generators: Sequence[np.random.Generator],
        device: torch.device | str = "cpu",
    ) -> None:
        super().__init__(observation_size, action_size, config, generators, device)
        self.actor_target = self.actor.clone()
        self.noise_std = per_action(self.settings.get("action_noise_std"))

    def explore(self, actor: Tensor, observations: Tensor, noise: Tensor) -> Tensor:
        """mu(s) + Gaussian noise, clipped to [-1, 1]: ``(K, B, A)``."""
        return (self.policy(actor, observations) + self.noise_std * noise).clamp(-1, 1)

    def update(
        self,
        batch: Batch,
        noise: Tensor | None,
        update_actor: bool,
        update_targets: bool,
        teacher: Loss | None = None,
        values: Loss | None = None,
    ) -> dict[str, Tensor]:
        """One gradient step of every learner on its row of ``batch``; returns losses ``(K,)``."""
        info = self.update_critic(batch, self.target_values(batch, noise), values)
        if update_actor:
            info |= self.update_actor(batch, teacher)
        if update_targets:
            self.actor_target.lerp_(self.actor, self.tau)
            self.critic_target.lerp_(self.critic, self.critic_tau)
        return info

    def renew_target(self) -> None:
        """Copy the actor into its target, which distillation without RL leaves behind."""
        self.actor_target.copy_(self.actor)

    def target_policy(self, observations: Tensor, noise: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Actions mu'(s) of the target policy, ``(K, B, A)``."""
        return self.policy(self.actor_target, observations), None

    def update_actor(self, batch: Batch, teacher: Loss | None = None) -> dict[str, Tensor]:
        """Maximise Q_1(s, mu(s)), averaged over the batch."""
        first_critic = self.critic[:: self.critics]

        def loss(actor: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
            actions = self.policy(actor, batch.observations)
            inputs = torch.cat((batch.observations, actions), dim=-1)
            values = self.critic_network(first_critic, inputs).squeeze(-1)
            losses, info = beside_teacher(-values.mean(1), values, actor, teacher)
            return losses, {"train/actor_loss": losses.detach(), **info}

        gradients, info = gradient(loss, self.actor)
        self.actor_adam.step(self.actor, gradients, self.learning_rate)
        return info
