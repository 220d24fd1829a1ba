"""The example that a newcomer reads first computes what the package computes."""

import runpy
from pathlib import Path
from types import SimpleNamespace

import gymnasium as gym
import numpy as np
import pytest
import torch
from helpers import flat_row, make_learner, random_batch
from tiny import POINT

from policykd.distillation.methods import METHODS
from policykd.distillation.peer_step import PeerStep

FILE = Path(__file__).parents[1] / "examples/dpd_minimal.py"
PEERS, WIDTH, BATCH, STEPS = 2, 16, 32, 20


@pytest.fixture(scope="module")
def minimal():
    return SimpleNamespace(**runpy.run_path(str(FILE)))


def package(minimal):
    """The package's learners and their distillation step with the example's settings, in float64."""
    settings = {
        "net_arch": (WIDTH, WIDTH),
        "gamma": minimal.GAMMA,
        "tau": minimal.TAU,
        "learning_rate": minimal.LEARNING_RATE,
        "alpha": minimal.ALPHA,
        "weight_ratio": minimal.WEIGHT_RATIO,
    }
    learner = make_learner("ddpg", PEERS, **settings)
    step = PeerStep(METHODS["dpd"], learner.config, learner)
    return learner, step


def example(minimal, learner):
    """The example's peers with the networks of the package's learners."""
    spaces = {"observation_space": gym.spaces.Box(-1, 1, (4,)), "action_space": gym.spaces.Box(-1, 1, (2,))}
    env = SimpleNamespace(**spaces, reset=lambda seed: (np.zeros(4), {}))
    peers = [minimal.Peer(env, seed, WIDTH) for seed in range(PEERS)]
    for k, peer in enumerate(peers):
        for network, shape, row in ((peer.actor, learner.actor_network, learner.actor[k]),
                                    (peer.critic, learner.critic_network, learner.critic[k])):  # fmt: skip
            network.double()
            tensors = [part[0] for layer in shape.unpack(row[None]) for part in layer]
            with torch.no_grad():
                for parameter, tensor in zip(network.parameters(), tensors, strict=True):
                    parameter.copy_(tensor.T if parameter.ndim == 2 else tensor[0])
        peer.reset_optimisers()
    return peers


def test_updates_are_those_of_the_package(minimal):
    learner, step = package(minimal)
    peers = example(minimal, learner)
    generator = np.random.default_rng(0)
    peer_of = torch.tensor([1, 0])
    rate = torch.tensor(minimal.DISTILL_RATE, dtype=torch.float64)
    start = learner.actor.clone()
    for _ in range(STEPS):
        batch, states = random_batch(generator, PEERS, BATCH), random_batch(generator, PEERS, BATCH).observations
        with torch.no_grad():
            learner.update(batch, None, True, True)
            step.update(states, peer_of, peer_of, torch.ones(PEERS, dtype=torch.float64), rate, False)
        for k, peer in enumerate(peers):
            minimal.improve(peer, [column[k] for column in batch[:5]])
        minimal.distil(peers, list(states))
    assert (learner.actor - start).abs().amax(1).min() > 1e-3
    for k, peer in enumerate(peers):
        for network, rows in ((peer.actor, learner.actor), (peer.actor_target, learner.actor_target),
                              (peer.critic, learner.critic), (peer.critic_target, learner.critic_target)):  # fmt: skip
            torch.testing.assert_close(flat_row(network), rows[k], atol=1e-6, rtol=0)


def test_distillation_is_part_of_it(minimal):
    """The comparison above would find it missing: without it the actors end elsewhere."""
    learner, _ = package(minimal)
    peers, untaught = example(minimal, learner), example(minimal, learner)
    states = list(random_batch(np.random.default_rng(1), PEERS, BATCH).observations)
    for _ in range(STEPS):
        minimal.distil(peers, states)
    moved = [(flat_row(a.actor) - flat_row(b.actor)).abs().max() for a, b in zip(peers, untaught, strict=True)]
    assert min(moved) > 1e-4


def test_it_trains(minimal, capsys):
    torch.manual_seed(0)
    minimal.main(POINT, 1_100, 0)
    assert "1,100 steps: returns -" in capsys.readouterr().out


def test_it_needs_nothing_of_the_package_and_stays_short():
    text = FILE.read_text(encoding="utf-8")
    assert "import policykd" not in text and "from policykd" not in text
    assert len(text.splitlines()) <= 170
