"""Proximal policy optimisation (Schulman et al. 2017), K learners at once, by the conventions of SB3's ``PPO``."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor
from typing_extensions import Self

from policykd.core.networks import MLP, Adam, Loss, PolicyOutput, gradient
from policykd.core.normaliser import CLIP, RunningMeanStd
from policykd.learners.config import PPOConfig
from policykd.learners.heads import Categorical, Gaussian, Head
from policykd.learners.settings import make_networks


class Minibatch(NamedTuple):
    """Steps from the rollouts of K learners; quantities with one number per step are ``(K, B)``."""

    inputs: Tensor
    """Observations ``(K, B, O)`` as the networks saw them when they acted: normalised."""
    actions: Tensor
    """Sampled actions ``(K, B, A)``: in the environment's units and not clipped; one-hot where discrete."""
    log_probs: Tensor
    """Log-probabilities of the actions under the policy that took them, ``(K, B)``."""
    advantages: Tensor
    """Estimated advantages ``(K, B)``."""
    returns: Tensor
    """Returns, the targets of the value network, ``(K, B)``."""


class Terms(NamedTuple):
    """The terms of PPO's loss."""

    policy_losses: Tensor
    """The clipped surrogate with its sign changed, to be minimised, ``(K, B)``."""
    value_losses: Tensor
    """Squared errors of the value network ``(K, B)``."""
    entropy: Tensor
    """Entropy of the policies ``(K,)``."""
    ratio: Tensor
    """Probability ratio of the actions under the new and the old policy, ``(K, B)``."""
    distribution: tuple[Tensor, Tensor]
    """What ``PPO.head`` reads: the policy networks' outputs ``(K, B, A)`` and the head's own parameters."""
    values: Tensor
    """V(s) in units of the normalised reward, ``(K, B)``."""
    info: dict[str, Tensor]
    """Diagnostics ``(K,)``."""


class PPO:
    """K policies and value networks, their optimiser and normalisers; row k of every tensor is learner k.

    A row of ``parameters`` is policy network, log standard deviations, value network: one Adam and one gradient norm
    for all of a learner, as in SB3. Gaussian policies act in units of the environment, where SB3's Gaussian has its
    standard deviation; what others read (``policy``) is in [-1, 1] as for every backbone. Without bounds policies
    choose one of A actions, and have no standard deviation.

    Args:
        observation_size: length O of an observation.
        action_size: length A of an action, or number A of actions to choose from.
        config: settings, the same for all learners.
        generators: one generator per learner, which draws that learner's networks alone.
        device: where the parameters live.
        low: smallest action of the environment, ``(A,)`` or one number; None where one of A actions is chosen.
        high: largest action of the environment, ``(A,)`` or one number; None likewise.
    """

    name: ClassVar[str] = "ppo"
    config_type: ClassVar[type[PPOConfig]] = PPOConfig
    memory: ClassVar[Literal["replay", "rollout"]] = "rollout"
    sb3: ClassVar[str | None] = "ppo"
    gaussian: ClassVar[bool] = True
    """Of continuous actions."""

    @classmethod
    def make(
        cls,
        observation_size: int,
        action_size: int,
        config: PPOConfig,
        generators: Sequence[np.random.Generator],
        device: torch.device | str,
        low: np.ndarray | None,
        high: np.ndarray | None,
    ) -> Self:
        """Make K learners for a task; they act in its units."""
        return cls(observation_size, action_size, config, generators, device, low, high)

    def gradient_steps_in(self, steps: int) -> int:
        """Gradient steps that follow from so many environment steps of each learner."""
        return steps * self.config.n_epochs // self.config.batch_size

    def __init__(
        self,
        observation_size: int,
        action_size: int,
        config: PPOConfig,
        generators: Sequence[np.random.Generator],
        device: torch.device | str = "cpu",
        low: np.ndarray | float | None = -1.0,
        high: np.ndarray | float | None = 1.0,
    ) -> None:
        self.config, self.generators, self.action_size = config, list(generators), action_size
        sizes = observation_size, action_size, observation_size
        self.actor_network, self.critic_network = make_networks(config, sizes, len(generators), 1, device)
        self.discrete = low is None or high is None
        self.head: Head = Categorical()
        if low is not None and high is not None:
            self.middle = torch.zeros(action_size, device=device) + torch.as_tensor((high + low) / 2, device=device)
            half = torch.zeros(action_size, device=device) + torch.as_tensor((high - low) / 2, device=device)
            self.half = half.masked_fill(half == 0, 1.0)  # one that cannot move: the environment's clip fixes it
            self.head = Gaussian(self.middle, self.half)
        own = self.head.own_parameters(action_size)
        self.sizes = [self.actor_network.parameter_count, own, self.critic_network.parameter_count]
        self.parameters = torch.stack([self._initialise(generator) for generator in self.generators]).to(device)
        self.adam = Adam(self.parameters, eps=1e-5)
        self.observation_stats = RunningMeanStd(len(generators), (observation_size,), device)
        self.frozen_statistics = False
        """Whether observations are normalised as they were, whatever comes: fine-tuning starts from such inputs."""
        self.return_stats = RunningMeanStd(len(generators), (), device)
        self.discounted_rewards = torch.zeros(len(generators), config.n_envs, dtype=torch.float64, device=device)

    def _initialise(self, generator: np.random.Generator) -> Tensor:
        log_std = torch.full((self.sizes[1],), self.config.log_std_init)
        networks = self.actor_network, self.critic_network
        if not (self.config.ortho_init and isinstance(networks[0], MLP) and isinstance(networks[1], MLP)):
            actor, critic = (network.initialise(generator) for network in networks)
        else:
            hidden = [math.sqrt(2)] * len(self.config.net_arch)
            actor = networks[0].initialise_orthogonal(generator, [*hidden, 0.01])
            critic = networks[1].initialise_orthogonal(generator, [*hidden, 1.0])
        return torch.cat((actor, log_std, critic))

    @property
    def actor(self) -> Tensor:
        """The policies' parameters ``(K, P)``, a view: network and log standard deviations."""
        return self.parameters[:, : self.sizes[0] + self.sizes[1]]

    @property
    def log_std(self) -> Tensor:
        """Log standard deviations ``(K, A)`` of actions in units of the environment, ``(K, 0)`` of choices; a view."""
        return self.parameters[:, self.sizes[0] : self.sizes[0] + self.sizes[1]]

    @property
    def critic(self) -> Tensor:
        """The value networks' parameters ``(K, P)``, a view."""
        return self.parameters[:, self.sizes[0] + self.sizes[1] :]

    def normalise(self, observations: Tensor) -> Tensor:
        """Normalise raw observations ``(K, B, O)``, own or a peer's, by each learner's own statistics."""
        if not self.config.normalize_observation:
            return observations
        mean, std = self.observation_stats.mean.unsqueeze(1), self.observation_stats.std.unsqueeze(1)
        return ((observations - mean) / std).clamp(-CLIP, CLIP).to(observations.dtype)

    def observe(self, observations: Tensor) -> None:
        """Update the running statistics with raw observations ``(K, N, O)`` of the learners' own environments."""
        if self.config.normalize_observation and not self.frozen_statistics:
            self.observation_stats.update(observations)

    def scale_rewards(self, rewards: Tensor, dones: Tensor) -> Tensor:
        """Divide rewards ``(K, N)`` by the running deviation of the return, which they update; ``dones`` reset it."""
        if not self.config.normalize_reward:
            return rewards
        self.discounted_rewards.mul_(self.config.gamma).add_(rewards)
        self.return_stats.update(self.discounted_rewards)
        self.discounted_rewards.masked_fill_(dones, 0.0)
        return (rewards / self.return_stats.std.unsqueeze(1)).clamp(-CLIP, CLIP)

    @property
    def return_scale(self) -> Tensor:
        """What one unit of the value network is worth in the task's units of reward, ``(K, 1)``."""
        std = self.return_stats.std.unsqueeze(1)
        return std if self.config.normalize_reward else torch.ones_like(std)

    def distribution(self, actor: Tensor, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Distribution parameters at normalised ``inputs (K, B, O)``, for ``head``: means or logits, and log_std."""
        return self.actor_network(actor[:, : self.sizes[0]], inputs), actor[:, self.sizes[0] :]

    def values(self, inputs: Tensor) -> Tensor:
        """V(s) ``(K, B)`` in units of the normalised reward at normalised ``inputs`` ``(K, B, O)``."""
        return self.critic_network(self.critic, inputs).squeeze(-1)

    def policy(self, actor: Tensor, observations: Tensor) -> Tensor:
        """Mean actions ``(K, B, A)`` at raw observations, bounds at -1 and 1, not clipped; discrete ones one-hot."""
        return self.outputs(actor, observations).actions

    def outputs(self, actor: Tensor, observations: Tensor) -> PolicyOutput:
        """The policies at raw observations, in the units of ``policy``; actions are means or modes."""
        return self.head.answer(*self.distribution(actor, self.normalise(observations)))

    def explore(self, actor: Tensor, observations: Tensor, noise: Tensor) -> Tensor:
        """A sample of the policies at raw observations, clipped to [-1, 1]: ``(K, B, A)``."""
        distribution = self.distribution(actor, self.normalise(observations))
        if self.discrete:
            return self.head.sample(*distribution, noise)
        outputs = self.head.answer(*distribution)
        assert outputs.std is not None
        return torch.addcmul(outputs.actions, outputs.std, noise).clamp(-1, 1)

    def sample(self, inputs: Tensor, noise: Tensor) -> Tensor:
        """Sampled actions ``(K, B, A)`` at normalised ``inputs``, in the environment's units and not clipped."""
        return self.head.sample(*self.distribution(self.actor, inputs), noise)

    def value(self, observations: Tensor, policy: PolicyOutput) -> Tensor:
        """V(s) ``(K, B)`` at raw observations, in the task's units of reward, so that learners can be compared.

        The value network predicts normalised returns; the learner's own reward scale turns them back into returns.
        """
        values = self.values(self.normalise(observations))
        return values * self.return_scale.to(values.dtype)

    def terms(self, parameters: Tensor, batch: Minibatch, clip_range: Tensor) -> Terms:
        """The terms of the loss at each step (equations 7 and 9); advantages are normalised here."""
        advantages = batch.advantages
        if self.config.normalize_advantage and advantages.shape[1] > 1:
            deviations = advantages - advantages.mean(1, keepdim=True)
            advantages = deviations / (advantages.std(1, keepdim=True) + 1e-8)
        network, log_std, critic = parameters.split(self.sizes, dim=1)
        distribution = self.actor_network(network, batch.inputs), log_std
        values = self.critic_network(critic, batch.inputs).squeeze(-1)
        log_ratio = self.head.log_prob(*distribution, batch.actions) - batch.log_probs
        ratio = log_ratio.exp()
        clipped = ratio.clamp(1 - clip_range, 1 + clip_range)
        policy_losses = -torch.min(advantages * ratio, advantages * clipped)
        value_losses = (batch.returns - values).square()
        entropy = self.head.entropy(*distribution)
        info = {
            "train/policy_gradient_loss": policy_losses.mean(1),
            "train/value_loss": value_losses.mean(1),
            "train/entropy_loss": -entropy,
            "train/approx_kl": (ratio - 1 - log_ratio).mean(1),
            "train/clip_fraction": (clipped != ratio).to(ratio.dtype).mean(1),
        }
        info = {key: value.detach() for key, value in info.items()}
        return Terms(policy_losses, value_losses, entropy, ratio, distribution, values, info)

    def update(self, batch: Minibatch, learning_rate: Tensor, clip_range: Tensor) -> dict[str, Tensor]:
        """One gradient step of every learner on the clipped surrogate; diagnostics ``(K,)``."""
        config = self.config

        def loss(parameters: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
            terms = self.terms(parameters, batch, clip_range)
            policy_loss, value_loss = terms.policy_losses.mean(1), terms.value_losses.mean(1)
            losses = policy_loss - config.ent_coef * terms.entropy + config.vf_coef * value_loss
            return losses, terms.info | {"train/loss": losses.detach()}

        return self.descend(loss, learning_rate)

    def descend(self, loss: Loss, learning_rate: Tensor, mask: Tensor | None = None) -> dict[str, Tensor]:
        """One Adam step on ``loss``, with each learner's gradient norm clipped.

        Args:
            loss: parameters to losses ``(K,)`` and diagnostics.
            learning_rate: a scalar tensor.
            mask: 1 where parameters may move, 0 where they are frozen, ``(P,)``; None is all.
        """
        gradients, info = gradient(loss, self.parameters)
        if mask is not None:
            gradients = gradients * mask
        # Each learner's own norm: a wild one must not slow the others. As a product, because the C++ backend of torch
        # 2.13's compiler fails on a sum along rows in one loop with Adam.
        norms = (gradients.square() @ torch.ones_like(gradients[0]).unsqueeze(1)).sqrt()
        gradients = gradients * (self.config.max_grad_norm / (norms + 1e-6)).clamp_max(1.0)
        self.adam.step(self.parameters, gradients, learning_rate)
        return info

    def step_actor(self, gradients: Tensor, learning_rate: Tensor) -> None:
        """Step the policies along ``-gradients`` ``(K, P)`` by PPO's own Adam; momentum also moves value networks."""
        rest = self.parameters.shape[1] - gradients.shape[1]
        self.adam.step(self.parameters, torch.nn.functional.pad(gradients, (0, rest)), learning_rate)
