"""What DDPG, TD3 and SAC share: K actors and their critics Q(s, a), trained on batches from a replay."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

import numpy as np
import torch
from torch import Tensor
from typing_extensions import Self

from policykd.core.errors import PolicyKDError
from policykd.core.networks import Adam, Loss, PolicyOutput, gradient
from policykd.learners.config import OffPolicyConfig
from policykd.learners.group_targets import by_all_actors, by_all_critics
from policykd.learners.settings import Settings, critic_rows, make_networks
from policykd.memory.replay import Batch


class OffPolicyLearner:
    """K actors and critics, the critics' targets, and optimisers; row k of every tensor is learner k.

    Args:
        observation_size: length O of an observation.
        action_size: length A of an action.
        config: settings, the same for all learners.
        generators: one generator per learner, which draws that learner's networks and noise alone.
        device: where the parameters live.
    """

    name: ClassVar[str]
    config_type: ClassVar[type[OffPolicyConfig]]
    memory: ClassVar[Literal["replay", "rollout"]] = "replay"
    sb3: ClassVar[str | None] = None
    critics = 1
    """Critics C of each learner."""
    critic_loss_scale = 1.0
    gaussian: ClassVar[bool] = False
    """Whether the actor outputs means and log standard deviations ``(K, B, 2A)`` rather than actions ``(K, B, A)``."""
    discrete = False

    def __init__(
        self,
        observation_size: int,
        action_size: int,
        config: OffPolicyConfig,
        generators: Sequence[np.random.Generator],
        device: torch.device | str = "cpu",
    ) -> None:
        self.config, self.generators, self.action_size = config, list(generators), action_size
        outputs = 2 * action_size if self.gaussian else action_size
        sizes = observation_size, outputs, observation_size + action_size
        self.actor_network, self.critic_network = make_networks(config, sizes, len(generators), self.critics, device)
        actors: list[Tensor] = []
        critics: list[Tensor] = []
        for generator in self.generators:
            actors.append(self.actor_network.initialise(generator))
            critics.extend(self.critic_network.initialise(generator) for _ in range(self.critics))
        self.actor = torch.stack(actors).to(device)
        self.critic = torch.stack(critics).to(device)
        self.critic_target = self.critic.clone()
        self.actor_adam = Adam(self.actor)
        self.critic_adam = Adam(self.critic)
        self.settings = settings = Settings(config, len(self.generators), device)
        self.gamma, self.tau, self.learning_rate = (settings.get(name) for name in ("gamma", "tau", "learning_rate"))
        self.critic_tau = critic_rows(self.tau, self.critics)
        self.critic_learning_rate = critic_rows(self.learning_rate, self.critics)
        self.judges = 1
        """Learners whose target critics are averaged in a target: 1, or all peers of a group."""
        self.proposers = 1
        """Learners whose actors propose the next action of a target: 1, or all peers of a group."""

    @classmethod
    def make(
        cls,
        observation_size: int,
        action_size: int,
        config: OffPolicyConfig,
        generators: Sequence[np.random.Generator],
        device: torch.device | str,
        low: np.ndarray | None,
        high: np.ndarray | None,
    ) -> Self:
        """Make K learners for a task; they act in [-1, 1] whatever the task's bounds.

        Raises:
            PolicyKDError: the task's actions are discrete.
        """
        if low is None:
            raise PolicyKDError(f"backbone: {cls.name} has continuous actions only; for discrete actions use ppo")
        return cls(observation_size, action_size, config, generators, device)

    def gradient_steps_in(self, steps: int) -> int:
        """Gradient steps that ``steps`` environment steps of each learner lead to."""
        config = self.config
        return steps // (config.train_freq * config.n_envs) * config.updates_at_once

    def policy(self, actor: Tensor, observations: Tensor) -> Tensor:
        """Deterministic actions ``(K, B, A)`` in [-1, 1] at observations ``(K, B, O)``."""
        return self.actor_network(actor, observations).tanh()

    def outputs(self, actor: Tensor, observations: Tensor) -> PolicyOutput:
        """The policies' full output at observations ``(K, B, O)``: what divergences compare."""
        return PolicyOutput(self.policy(actor, observations))

    def explore(self, actor: Tensor, observations: Tensor, noise: Tensor) -> Tensor:
        """Training actions ``(K, B, A)`` in [-1, 1], given standard normal noise ``(K, B, A)``."""
        raise NotImplementedError

    def q_values(self, critic: Tensor, observations: Tensor, actions: Tensor) -> Tensor:
        """Every critic's Q(s, a): ``(K, C, B)``."""
        inputs = torch.cat((observations, actions), dim=-1)
        if self.critics > 1:
            inputs = inputs.repeat_interleave(self.critics, dim=0)
        return self.critic_network(critic, inputs).view(-1, self.critics, inputs.shape[1])

    def target_q(self, observations: Tensor, actions: Tensor) -> Tensor:
        """Minimum over the target critics of Q'(s, a), ``(K, B)``; with several judges the mean of their minima."""
        if self.judges > 1:
            return by_all_critics(self._own_target_q, observations, actions, self.judges)
        return self._own_target_q(observations, actions)

    def _own_target_q(self, observations: Tensor, actions: Tensor) -> Tensor:
        return self.q_values(self.critic_target, observations, actions).amin(1)

    def target_policy(self, observations: Tensor, noise: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Next actions ``(K, B, A)`` of a target, and their log-probabilities ``(K, B)`` with an entropy bonus."""
        raise NotImplementedError

    def next_values(self, observations: Tensor, noise: Tensor | None, temperature: Tensor | None = None) -> Tensor:
        """V(s') of the targets, ``(K, B)``: min_c Q'_c(s', a') - temperature * log pi(a' | s')."""
        if self.proposers > 1:
            ask = self._own_target_q, self.target_policy, observations, noise, temperature
            return by_all_actors(*ask, self.proposers, self.config.least_proposal)
        actions, log_prob = self.target_policy(observations, noise)
        values = self.target_q(observations, actions)
        return values if log_prob is None or temperature is None else values - temperature * log_prob

    @torch.no_grad()
    def target_values(self, batch: Batch, noise: Tensor | None, temperature: Tensor | None = None) -> Tensor:
        """TD targets r + gamma (1 - terminated) V(s'), ``(K, B)``; a time limit (truncated) still bootstraps.

        V is ``next_values``. For n-step returns the batch carries the discount of each transition.
        """
        next_values = self.next_values(batch.next_observations, noise, temperature)
        discounts = self.gamma if batch.discounts is None else batch.discounts
        return batch.rewards + discounts * (1 - batch.terminated) * next_values

    def value(self, observations: Tensor, policy: PolicyOutput) -> Tensor:
        """V(s) = min_c Q_c(s, a) at the policy's action, ``(K, B)``."""
        return self.q_values(self.critic, observations, policy.actions).amin(1)

    def draw_noise(self, batch_size: int) -> Tensor | None:
        """Noise that one update needs; None where it needs none."""
        return None

    def actor_updates(self, n_updates: int) -> int:
        """How many of the first ``n_updates`` gradient steps also update the actors."""
        return n_updates

    def updates_actor(self, n_updates: int) -> bool:
        """Whether gradient step number ``n_updates`` (from 1) also updates the actors."""
        return self.actor_updates(n_updates) > self.actor_updates(n_updates - 1)

    def updates_targets(self, n_updates: int) -> bool:
        """Whether gradient step number ``n_updates`` (from 1) also updates the target networks."""
        return True

    def update(
        self,
        batch: Batch,
        noise: Tensor | None,
        update_actor: bool,
        update_targets: bool,
        teacher: Loss | None = None,
        values: Loss | None = None,
    ) -> dict[str, Tensor]:
        """One gradient step of every learner on its row of ``batch``; returns losses ``(K,)``.

        The next batch may overwrite this one, so copy what must last. ``teacher`` is a loss added to the actors',
        which is then divided by mean |Q| (``beside_teacher``); ``values`` is one added to the critics'.
        """
        raise NotImplementedError

    def update_critic(self, batch: Batch, targets: Tensor, beside: Loss | None = None) -> dict[str, Tensor]:
        """Minimise the critics' squared TD error, averaged over the batch and summed over critics, plus ``beside``."""
        scale = self.critic_loss_scale / targets.shape[1]

        def loss(critic: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
            errors = self.q_values(critic, batch.observations, batch.actions) - targets.unsqueeze(1)
            losses = errors.square().sum((1, 2)) * scale
            more, info = (0.0, {}) if beside is None else beside(critic)
            return losses + more, info | {"train/critic_loss": losses.detach()}

        gradients, info = gradient(loss, self.critic)
        self.critic_adam.step(self.critic, gradients, self.critic_learning_rate)
        return info


def beside_teacher(
    losses: Tensor, values: Tensor, actor: Tensor, teacher: Loss | None
) -> tuple[Tensor, dict[str, Tensor]]:
    """The actor's RL loss ``(K,)`` divided by its mean |Q|, plus the teacher's loss; unchanged without a teacher.

    Args:
        losses: the RL loss ``(K,)``.
        values: Q at the actor's actions, ``(K, B)``.
        actor: the actors' parameters.
        teacher: the teacher's loss.
    """
    if teacher is None:
        return losses, {}
    taught, info = teacher(actor)
    return losses / values.detach().abs().mean(1).clamp_min(1e-3) + taught, info
