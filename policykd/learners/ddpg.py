"""Deep deterministic policy gradient (Lillicrap et al. 2016, algorithm 1), K learners at once."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from policykd.config import DDPGConfig
from policykd.memory.replay import Batch
from policykd.networks import MLP, Adam, gradient


class DDPG:
    """K actors and critics, their targets and optimisers; row k of every tensor is learner k.

    Args:
        observation_size: length O of an observation.
        action_size: length A of an action.
        config: settings, the same for all learners.
        generators: one generator per learner, which draws that learner's networks and noise alone.
        device: where the parameters live.
    """

    critics = 1

    def __init__(
        self,
        observation_size: int,
        action_size: int,
        config: DDPGConfig,
        generators: Sequence[np.random.Generator],
        device: torch.device | str = "cpu",
    ) -> None:
        self.config, self.generators, self.action_size = config, list(generators), action_size
        self.actor_network = MLP((observation_size, *config.net_arch, action_size), squash=True)
        self.critic_network = MLP((observation_size + action_size, *config.net_arch, 1))
        actors: list[Tensor] = []
        critics: list[Tensor] = []
        for generator in self.generators:
            actors.append(self.actor_network.initialise(generator))
            critics.extend(self.critic_network.initialise(generator) for _ in range(self.critics))
        self.actor = torch.stack(actors).to(device)
        self.critic = torch.stack(critics).to(device)
        self.actor_target = self.actor.clone()
        self.critic_target = self.critic.clone()
        self.actor_adam = Adam(self.actor)
        self.critic_adam = Adam(self.critic)

    def policy(self, actor: Tensor, observations: Tensor) -> Tensor:
        """Deterministic actions ``(K, B, A)`` in [-1, 1] at observations ``(K, B, O)``."""
        return self.actor_network(actor, observations)

    def q_values(self, critic: Tensor, observations: Tensor, actions: Tensor) -> Tensor:
        """Every critic's Q(s, a): ``(K, C, B)``."""
        inputs = torch.cat((observations, actions), dim=-1)
        if self.critics > 1:
            inputs = inputs.repeat_interleave(self.critics, dim=0)
        return self.critic_network(critic, inputs).view(-1, self.critics, inputs.shape[1])

    def value(self, observations: Tensor, actions: Tensor) -> Tensor:
        """V(s) = Q(s, a) for the policy's action ``a``; the minimum where there are several critics: ``(K, B)``."""
        return self.q_values(self.critic, observations, actions).amin(1)

    def draw_noise(self, batch_size: int) -> Tensor | None:
        """What randomness one update needs: none."""
        return None

    def updates_actor(self, n_updates: int) -> bool:
        """Whether gradient step number ``n_updates`` (from 1) also updates the actors and the targets."""
        return True

    def update(self, batch: Batch, noise: Tensor | None, update_actor: bool) -> dict[str, Tensor]:
        """One gradient step of every learner on its row of ``batch``; returns losses ``(K,)``."""
        info = self.update_critic(batch, self.target_values(batch, noise))
        if update_actor:
            info |= self.update_actor(batch)
            self.actor_target.lerp_(self.actor, self.config.tau)
            self.critic_target.lerp_(self.critic, self.config.tau)
        return info

    @torch.no_grad()
    def target_values(self, batch: Batch, noise: Tensor | None) -> Tensor:
        """Y = r + gamma (1 - terminated) Q'(s', mu'(s')), ``(K, B)``; a time limit is no end."""
        next_actions = self.policy(self.actor_target, batch.next_observations)
        next_values = self.q_values(self.critic_target, batch.next_observations, next_actions).amin(1)
        return batch.rewards + self.config.gamma * (1 - batch.terminated) * next_values

    def update_critic(self, batch: Batch, targets: Tensor) -> dict[str, Tensor]:
        """Descend the squared error of the critics, averaged over the batch and summed over critics."""

        def loss(critic: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
            errors = self.q_values(critic, batch.observations, batch.actions) - targets.unsqueeze(1)
            losses = errors.square().mean(2).sum(1)
            return losses, {"train/critic_loss": losses.detach()}

        gradients, info = gradient(loss, self.critic)
        self.critic_adam.step(self.critic, gradients, self.config.learning_rate)
        return info

    def update_actor(self, batch: Batch) -> dict[str, Tensor]:
        """Ascend Q_1(s, mu(s)), averaged over the batch."""
        first_critic = self.critic[:: self.critics]

        def loss(actor: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
            actions = self.policy(actor, batch.observations)
            inputs = torch.cat((batch.observations, actions), dim=-1)
            losses = -self.critic_network(first_critic, inputs).squeeze(-1).mean(1)
            return losses, {"train/actor_loss": losses.detach()}

        gradients, info = gradient(loss, self.actor)
        self.actor_adam.step(self.actor, gradients, self.config.learning_rate)
        return info
