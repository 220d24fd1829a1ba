"""Dual Policy Distillation (Lai, Zha, Li & Hu, IJCAI 2020) with DDPG in one file: two peers, torch and gymnasium only.

    python examples/dpd_minimal.py --env Pendulum-v1 --steps 20000

Read this first. policykd does the same computation for many peers and seeds at once, as rows of the same tensors:
tests/test_dpd_minimal.py checks that parameters agree to 1e-6 after some updates.
"""

import argparse
import copy
import itertools
import math
import random

import gymnasium as gym
import numpy as np
import torch
from torch import nn

GAMMA, TAU, LEARNING_RATE, BATCH = 0.99, 0.005, 1e-3, 64
NOISE = 0.1  # standard deviation of exploration, actions in [-1, 1]
LEARNING_STARTS = 500  # random steps of each peer before it learns
ALPHA = 1.0  # confidence in the disadvantage; 0 weights all states equally
DISTILL_RATE, RECENT = 1e-4, 1_000  # distillation uses the peer's latest transitions
WEIGHT_RATIO = 1e4  # maximum ratio of the largest to the smallest weight in a batch


def mlp(*sizes: int) -> list[nn.Module]:
    """Linear layers with ReLU between them."""
    layers: list[nn.Module] = []
    for inputs, outputs in itertools.pairwise(sizes):
        layers += [nn.Linear(inputs, outputs), nn.ReLU()]
    return layers[:-1]


class Peer:
    """A DDPG learner with its own environment, replay, random generator and distillation optimiser."""

    def __init__(self, env: gym.Env, seed: int, width: int = 64) -> None:
        torch.manual_seed(seed)  # peers have different initial networks
        observation, action = env.observation_space.shape[0], env.action_space.shape[0]
        self.actor = nn.Sequential(*mlp(observation, width, width, action), nn.Tanh())
        self.critic = nn.Sequential(*mlp(observation + action, width, width, 1))
        self.env, self.random = env, random.Random(seed)
        self.noise = np.random.default_rng(seed)
        self.replay: list[tuple] = []  # (observation, action, next observation, reward, terminated)
        self.observation, _ = env.reset(seed=seed)
        self.reset_optimisers()

    def reset_optimisers(self) -> None:
        """Copy the networks into their targets, and make new optimisers."""
        self.actor_target, self.critic_target = copy.deepcopy(self.actor), copy.deepcopy(self.critic)
        self.actor_adam = torch.optim.Adam(self.actor.parameters(), LEARNING_RATE)
        self.critic_adam = torch.optim.Adam(self.critic.parameters(), LEARNING_RATE)
        self.distill_adam = torch.optim.Adam(self.actor.parameters(), DISTILL_RATE)

    def act(self) -> None:
        """Take a step in the environment and store it in the replay."""
        if len(self.replay) < LEARNING_STARTS:
            action = self.noise.uniform(-1, 1, self.env.action_space.shape)
        else:
            with torch.no_grad():
                action = self.actor(torch.as_tensor(self.observation, dtype=torch.float32)).numpy()
            action = np.clip(action + NOISE * self.noise.standard_normal(action.shape), -1, 1)
        after, reward, terminated, truncated, _ = self.env.step(action.astype(np.float32))
        # A time limit does not end the task: only `terminated` stops bootstrapping.
        self.replay.append((self.observation, action, after, reward, terminated))
        self.observation = self.env.reset()[0] if terminated or truncated else after

    def sample(self, recent: int | None = None) -> list[torch.Tensor]:
        """A minibatch of columns (B, .): observations, actions, next observations, rewards, terminated."""
        rows = self.random.choices(self.replay[-recent:] if recent else self.replay, k=BATCH)
        return [torch.as_tensor(np.array(column), dtype=torch.float32) for column in zip(*rows, strict=True)]

    def q(self, critic: nn.Module, observations: torch.Tensor, actions: torch.Tensor) -> torch.Tensor:
        """Q(s, a) of a critic, (B,)."""
        return critic(torch.cat([observations, actions], 1)).squeeze(1)

    def value(self, observations: torch.Tensor) -> torch.Tensor:
        """V(s) = Q(s, pi(s)), by the peer's own critic, (B,)."""
        return self.q(self.critic, observations, self.actor(observations))


def improve(peer: Peer, batch: list[torch.Tensor]) -> None:
    """One gradient step of DDPG (Lillicrap et al. 2016, algorithm 1)."""
    observations, actions, after, rewards, terminated = batch
    with torch.no_grad():
        next_values = peer.q(peer.critic_target, after, peer.actor_target(after))
        targets = rewards + GAMMA * (1 - terminated) * next_values
    step(peer.critic_adam, (peer.q(peer.critic, observations, actions) - targets).square().mean())
    step(peer.actor_adam, -peer.value(observations).mean())
    with torch.no_grad():
        for network, target in ((peer.actor, peer.actor_target), (peer.critic, peer.critic_target)):
            for new, old in zip(network.parameters(), target.parameters(), strict=True):
                old.lerp_(new, TAU)


def distil(peers: list[Peer], states: list[torch.Tensor]) -> None:
    """One distillation step of both peers: each moves towards the other, more so where the other is better."""
    losses = []
    for learner, peer, at in zip(peers, reversed(peers), states, strict=True):
        with torch.no_grad():
            target = peer.actor(at)
            weights = disadvantage(peer.value(at) - learner.value(at))
        distance = (learner.actor(at) - target).square().sum(1)  # (B,)
        losses.append((weights * distance).mean())
    for learner, loss in zip(peers, losses, strict=True):  # both losses are computed before either peer changes
        step(learner.distill_adam, loss)


def disadvantage(xi: torch.Tensor) -> torch.Tensor:
    """Weights proportional to exp(alpha * xi) with mean 1, (B,); xi = V_peer(s) - V_self(s), equation 11.

    Two choices that the paper leaves open (docs/dpd.md): xi is divided by its standard deviation, so that alpha is
    independent of the scale of rewards, and the smallest weight is bounded.
    """
    xi = xi / (xi.std(correction=0) + 1e-6)
    weights = (ALPHA * (xi - xi.max())).clamp_min(-math.log(WEIGHT_RATIO)).exp()
    return weights / weights.mean()


def step(optimiser: torch.optim.Optimizer, loss: torch.Tensor) -> None:
    """Take a gradient step on a loss."""
    optimiser.zero_grad()
    loss.backward()
    optimiser.step()


def evaluate(peer: Peer, env: gym.Env, episodes: int = 5) -> float:
    """Mean return without exploration noise."""
    total = 0.0
    for episode in range(episodes):
        observation, done = env.reset(seed=1_000_000 + episode)[0], False
        while not done:
            with torch.no_grad():
                action = peer.actor(torch.as_tensor(observation, dtype=torch.float32)).numpy()
            observation, reward, terminated, truncated, _ = env.step(action)
            total, done = total + float(reward), terminated or truncated
    return total / episodes


def main(env: str, steps: int, seed: int) -> list[Peer]:
    """Train two peers for a number of environment steps, shared by both."""
    make = lambda: gym.wrappers.RescaleAction(gym.make(env), np.float32(-1), np.float32(1))  # noqa: E731
    peers = [Peer(make(), seed=10 * seed + k) for k in range(2)]
    test = make()
    for t in range(1, steps // 2 + 1):
        for peer in peers:
            peer.act()
        if t > LEARNING_STARTS:
            for peer in peers:
                improve(peer, peer.sample())
            # Each peer distils at states that the other visited recently.
            distil(peers, [peer.sample(RECENT)[0] for peer in reversed(peers)])
        if t % max(1, steps // 10) == 0:
            print(f"{2 * t:,} steps: returns " + ", ".join(f"{evaluate(peer, test):,.1f}" for peer in peers))
    return peers


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--env", default="Pendulum-v1")
    parser.add_argument("--steps", type=int, default=20_000, help="environment steps of both peers together")
    parser.add_argument("--seed", type=int, default=0)
    main(**vars(parser.parse_args()))
