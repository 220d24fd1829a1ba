"""Soft actor-critic with a learned temperature (Haarnoja et al. 2018b, algorithm 1), K learners at once."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from policykd.core.draws import standard_normal
from policykd.core.networks import MLP, Adam, Loss, PolicyOutput, gradient
from policykd.learners.config import SACConfig
from policykd.learners.off_policy import OffPolicyLearner, beside_teacher
from policykd.memory.replay import Batch

LOG_STD_MIN, LOG_STD_MAX = -20.0, 2.0
"""Bounds of the log standard deviation, as in SB3."""
EPSILON = 1e-6
"""Keeps the logarithm of 1 - a^2 finite; the value is SB3's."""


def squashed_log_prob(noise: Tensor, log_std: Tensor, actions: Tensor) -> Tensor:
    """Log-probability of a = tanh(u), u = mean + std * noise (Haarnoja et al. 2018b, equation 26).

    log pi(a) = sum_d [log N(u_d; mean_d, std_d) - log(1 - a_d^2)], where (u - mean) / std is the noise itself.

    Args:
        noise: ``(K, B, A)``.
        log_std: ``(K, B, A)``.
        actions: the actions a ``(K, B, A)``.

    Returns:
        ``(K, B)``.
    """
    densities = 0.5 * noise.square() + log_std + (1 - actions.square() + EPSILON).log()
    return -densities.sum(-1) - 0.5 * math.log(2 * math.pi) * actions.shape[-1]


class SAC(OffPolicyLearner):
    """Gaussian actors squashed by tanh, twin critics and a temperature per learner (arguments: OffPolicyLearner)."""

    name = "sac"
    config_type = SACConfig
    sb3: ClassVar[str | None] = "sac"
    critics = 2
    critic_loss_scale = 0.5
    gaussian = True
    config: SACConfig

    def __init__(
        self,
        observation_size: int,
        action_size: int,
        config: SACConfig,
        generators: Sequence[np.random.Generator],
        device: torch.device | str = "cpu",
    ) -> None:
        super().__init__(observation_size, action_size, config, generators, device)
        auto = config.target_entropy == "auto"
        self.target_entropy: float | Tensor = -float(action_size) if auto else float(config.target_entropy)
        if "target_entropy" in config.vary:
            self.target_entropy = self.settings.per_learner(config.vary["target_entropy"]).squeeze(1)
        temperature = torch.full((len(self.generators), 1), config.initial_ent_coef, device=device)
        self.learns_ent_coef = config.learns_ent_coef
        if self.learns_ent_coef:
            self.log_ent_coef = temperature.log()
            self.ent_coef_adam = Adam(self.log_ent_coef)
        else:
            self.fixed_ent_coef = temperature

    def gaussians(self, actor: Tensor, observations: Tensor) -> tuple[Tensor, Tensor]:
        """Means and log standard deviations before squashing, each ``(K, B, A)``, at observations ``(K, B, O)``."""
        mean, log_std = self.actor_network(actor, observations).chunk(2, dim=-1)
        return mean, log_std.clamp(LOG_STD_MIN, LOG_STD_MAX)

    def policy(self, actor: Tensor, observations: Tensor) -> Tensor:
        """Deterministic actions tanh(mean), ``(K, B, A)``, at observations ``(K, B, O)``."""
        return self.gaussians(actor, observations)[0].tanh()

    def outputs(self, actor: Tensor, observations: Tensor) -> PolicyOutput:
        """Actions tanh(mean), and the Gaussians before squashing."""
        mean, log_std = self.gaussians(actor, observations)
        return PolicyOutput(mean.tanh(), mean, log_std.exp())

    def sample(self, actor: Tensor, observations: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Reparameterised actions ``(K, B, A)`` from standard normal noise, and their log-probabilities ``(K, B)``."""
        mean, log_std = self.gaussians(actor, observations)
        actions = (mean + log_std.exp() * noise).tanh()
        return actions, squashed_log_prob(noise, log_std, actions)

    def explore(self, actor: Tensor, observations: Tensor, noise: Tensor) -> Tensor:
        """A sample of the policy, ``(K, B, A)``."""
        mean, log_std = self.gaussians(actor, observations)
        return (mean + log_std.exp() * noise).tanh()

    def set_std(self, std: float) -> None:
        """Set the standard deviation before tanh to ``std`` at all states; leaves means and custom networks alone."""
        if isinstance(self.actor_network, MLP):
            weight, bias = self.actor_network.unpack(self.actor)[-1]
            weight[..., self.action_size :] = 0.0
            bias[..., self.action_size :] = math.log(std)

    def temperature(self) -> Tensor:
        """Weight of the entropy relative to the return, ``(K, 1)``."""
        return self.log_ent_coef.exp() if self.learns_ent_coef else self.fixed_ent_coef

    def value(self, observations: Tensor, policy: PolicyOutput) -> Tensor:
        """V(s) = min_c Q_c(s, a) at a = tanh(mean), ``(K, B)``; ``soft_value`` subtracts temperature * log pi."""
        values = super().value(observations, policy)
        if self.config.soft_value:
            assert policy.std is not None
            log_prob = squashed_log_prob(torch.zeros_like(policy.std), policy.std.log(), policy.actions)
            values = values - self.temperature() * log_prob
        return values

    def draw_noise(self, batch_size: int) -> Tensor:
        """Standard normal noise ``(K, 2, B, A)`` for the actions at s and s', from each learner's own generator."""
        noise = standard_normal(self.generators, 2, batch_size, self.action_size)
        return torch.from_numpy(noise).to(self.actor.device)

    def updates_targets(self, n_updates: int) -> bool:
        """Whether gradient step number ``n_updates`` (from 1) also updates the target networks."""
        return (n_updates - 1) % self.config.updates_at_once % self.config.target_update_interval == 0

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
        assert noise is not None
        # As in SB3, critics and actors see the temperature from before its own step. That step needs the actors'
        # log-probabilities from before theirs, which the actors' loss computes anyway: so it comes last.
        temperature = self.temperature()
        info = self.update_critic(batch, self.target_values(batch, noise[:, 1], temperature), values)
        if update_actor:
            info |= self.update_actor(batch, noise[:, 0], temperature, teacher)
            if self.learns_ent_coef:
                info |= self.update_temperature(info["train/entropy"])
        if update_targets:
            self.critic_target.lerp_(self.critic, self.critic_tau)
        return info | {"train/ent_coef": temperature.squeeze(1)}

    def target_policy(self, observations: Tensor, noise: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """A sample from the current policy, since SAC has no target policy."""
        assert noise is not None
        return self.sample(self.actor, observations, noise)

    def update_actor(
        self, batch: Batch, noise: Tensor, temperature: Tensor, teacher: Loss | None = None
    ) -> dict[str, Tensor]:
        """Minimise temperature * log pi(a | s) - min_c Q_c(s, a) for sampled actions a, averaged over the batch."""

        def loss(actor: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
            actions, log_prob = self.sample(actor, batch.observations, noise)
            # min picks one critic where two are equal, as in SB3; amin would share the gradient.
            values = self.q_values(self.critic, batch.observations, actions).min(1).values
            losses, info = beside_teacher((temperature * log_prob - values).mean(1), values, actor, teacher)
            info |= {"train/actor_loss": losses.detach(), "train/entropy": -log_prob.detach().mean(1)}
            return losses, info

        gradients, info = gradient(loss, self.actor)
        self.actor_adam.step(self.actor, gradients, self.learning_rate)
        return info

    def update_temperature(self, entropy: Tensor) -> dict[str, Tensor]:
        """Minimise log temperature * (entropy - target entropy): a low entropy ``(K,)`` raises the temperature."""
        gradients = (entropy - self.target_entropy).unsqueeze(1)
        losses = (self.log_ent_coef * gradients).squeeze(1)
        self.ent_coef_adam.step(self.log_ent_coef, gradients, self.learning_rate)
        return {"train/ent_coef_loss": losses}
