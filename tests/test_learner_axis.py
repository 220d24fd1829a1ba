"""Learners trained in one batch are the learners they would be alone: rows never mix, and nothing is shared."""

import itertools

import gymnasium as gym
import numpy as np
import pytest
import torch
from stable_baselines3.common.callbacks import BaseCallback

from policykd import DualStudent, native
from policykd.distillation.methods import METHODS, PEER_METHODS
from policykd.native import kernels

POINT = "PolicyKD/PointReach-v0"
SMALL = {
    "net_arch": (16, 16),
    "batch_size": 32,
    "distill_batch_size": 32,
    "distill_learning_rate": 1e-3,  # strong, so that whatever distillation mixes up shows
    "buffer_size": 2000,
    "learning_starts": 20,
    "n_eval_episodes": 1,
    "eval_freq": 0,
}
NETWORKS = ("actor", "critic", "actor_target", "critic_target")


def make(env=POINT, *, config=None, compile=False, **arguments):
    return DualStudent(env, config=SMALL | (config or {}), compile=compile, **arguments)


def rows_of(agent, learners):
    """Networks and optimiser states of some learners, each (len(learners), ...), and the states they saw."""
    K, tensors = agent.n_learners, {}
    for name in NETWORKS:
        tensors[name] = getattr(agent.learner, name).view(K, -1)[learners].clone()
    for name in ("actor_adam", "critic_adam"):
        tensors[name] = getattr(agent.learner, name).exp_avg_sq.view(K, -1)[learners].clone()
    if agent.recipe.distillation is not None:
        tensors["distill_adam"] = agent.recipe.distillation.adam.exp_avg_sq[learners].clone()
    tensors["observations"] = agent.replay_buffer.observations[learners].clone()
    return tensors


@pytest.mark.parametrize("env", [POINT, "Pendulum-v1"])
@pytest.mark.parametrize("method", ["dpd", "independent"])
@pytest.mark.parametrize("backbone", ["ddpg", "td3"])
def test_a_group_in_a_batch_is_the_group_alone(path, env, method, backbone):
    arguments = {"method": method, "backbone": backbone}
    batch = make(env, seeds=(3, 7), **arguments).learn(2 * 120)
    alone = make(env, seeds=(7,), **arguments).learn(2 * 120)
    assert alone.recipe.n_updates == 100
    expected = rows_of(alone, [0, 1])
    for name, tensor in rows_of(batch, [2, 3]).items():
        # Bit-identical where this was written. A processor or library whose loops treat the ends of a tensor
        # differently rounds differently (6e-8 of weights below 1), and 100 updates let that grow.
        torch.testing.assert_close(tensor, expected[name], atol=1e-4, rtol=0, msg=name)
    others = rows_of(batch, [0, 1])
    assert all((others[name] - expected[name]).abs().max() > 1e-2 for name in (*NETWORKS, "observations"))


def disturb_actor(agent, learners):
    agent.learner.actor[learners] += 0.1


def disturb_replay(agent, learners):
    agent.replay_buffer.observations[learners] += 0.5


@pytest.mark.parametrize("disturb", [disturb_actor, disturb_replay])
@pytest.mark.parametrize("method", ["dpd", "dpd_shared"])
@pytest.mark.parametrize("backbone", ["ddpg", "td3"])
def test_groups_never_influence_one_another(disturb, method, backbone):
    agents = []
    for disturbed in (False, True):
        agent = make(seeds=(3, 7, 11), method=method, backbone=backbone).learn(2 * 60)
        if disturbed:
            disturb(agent, [2, 3])
        agents.append(agent.learn(2 * 60))
    calm, disturbed = (rows_of(agent, [0, 1, 4, 5]) for agent in agents)
    assert all(torch.equal(disturbed[name], calm[name]) for name in calm)
    calm, disturbed = (rows_of(agent, [2, 3]) for agent in agents)
    assert not any(torch.equal(disturbed[name], calm[name]) for name in NETWORKS)


@pytest.mark.parametrize("method", PEER_METHODS)
def test_a_peer_is_heard_by_its_group_exactly_where_the_method_says(method):
    """The counterpart of the test above: disturb one peer, and look at the other."""
    heard = []
    for speaker, listener in ((0, 1), (1, 0)):
        actors = []
        for disturbed in (False, True):
            agent = make(method=method).learn(2 * 40)
            if disturbed:
                disturb_actor(agent, [speaker])
            actors.append(rows_of(agent.learn(2 * 40), [listener])["actor"])
        heard.append(not torch.equal(*actors))
    if method == "dpd_hard":  # nobody listens to a peer who is nowhere better
        assert any(heard)
    else:
        assert heard == {"independent": [False, False], "one_way": [True, False]}.get(method, [True, True])


def all_differ(rows):
    return all(not np.array_equal(a, b) for a, b in itertools.combinations(rows, 2))


@pytest.mark.parametrize("backbone", ["ddpg", "td3"])
def test_peers_share_no_randomness(backbone):
    agent = make("Pendulum-v1", seeds=(0, 1), backbone=backbone)
    agent.get_env()
    assert all_differ(agent.collector.observations)
    assert all_differ(agent.learner.actor.numpy())
    assert all_differ(agent.learner.critic.numpy())  # TD3's twins too
    agent.learn(2 * 20)  # random actions alone
    batch = agent.replay_buffer.sample(200, [np.random.default_rng(0)] * 4)
    assert all_differ(np.sort(batch.actions[..., 0].numpy(), axis=1))
    noise = agent.learner.draw_noise(8)
    assert all_differ(noise.numpy()) if backbone == "td3" else noise is None
    # The same actor at the same state, and its exploration still differs; so do the batches of the same replay.
    agent.learner.actor[:] = agent.learner.actor[:1].clone()
    agent.collector.observations[:] = agent.collector.observations[0]
    explored = []
    agent.collector.step = lambda actions: explored.append(np.array(actions)) or 1 / 0
    with pytest.raises(ZeroDivisionError):
        agent.learn(2)
    assert all_differ(explored[0])
    agent.replay_buffer.observations[:] = torch.arange(20.0).view(1, 20, 1)
    assert all_differ(agent.replay_buffer.sample(32, agent.streams["replay"]).observations[..., 0].numpy())


def test_every_purpose_of_every_learner_has_a_generator_of_its_own():
    agent = make(seeds=(0, 1))
    assert all_differ([generator.random(4) for generator in (*agent.streams["exploration"], *agent.streams["replay"])])


def test_learners_are_judged_by_the_same_starts():
    agent = make(seeds=(0, 1))
    agent.learner.actor[:] = agent.learner.actor[:1].clone()
    returns = agent.evaluate(4, seed=5).returns
    assert all_differ(returns.T)
    assert (returns == returns[0]).all()
    np.testing.assert_array_equal(agent.evaluate(4, seed=5).returns, returns)
    own = agent.evaluate(4).returns  # by the seed of each group
    np.testing.assert_array_equal(own[[0, 2]], own[[1, 3]])
    assert not np.array_equal(own[0], own[2])


def test_every_evaluation_on_the_way_has_starts_of_its_own():
    agent = make(config={"eval_freq": 40, "n_eval_episodes": 3, "learning_starts": 1000})
    agent.learner.actor[:] = agent.learner.actor[:1].clone()
    agent.learn(2 * 60)
    assert agent.recipe.n_updates == 0 and len(agent.evaluations) == 3
    assert all_differ([evaluation.returns[0] for evaluation in agent.evaluations])


@pytest.mark.parametrize("backbone", ["ddpg", "td3"])
def test_the_targets_of_every_learner_start_as_its_networks(backbone):
    learner = make(seeds=(0, 1, 2), peers=3, backbone=backbone).learner
    assert len(learner.actor) == 9 and len(learner.critic) == (9 if backbone == "ddpg" else 18)
    assert torch.equal(learner.actor_target, learner.actor)
    assert torch.equal(learner.critic_target, learner.critic)
    learner.actor += 1  # a copy, not the same memory
    assert not torch.equal(learner.actor_target, learner.actor)


class Counter(gym.Wrapper):
    """Counts the steps taken in an environment."""

    counts = 0

    def step(self, action):
        self.counts += 1
        return super().step(action)


@pytest.mark.parametrize(("peers", "seeds"), [(1, (0,)), (2, (0,)), (2, (0, 1)), (3, (0,))])
def test_the_budget_counts_the_steps_of_all_peers_of_a_group(peers, seeds):
    method = "independent" if peers == 1 else "dpd"
    agent = make(lambda: Counter(gym.make(POINT)), peers=peers, seeds=seeds, method=method).learn(120)
    assert agent.num_timesteps == 120
    assert agent.get_env().get_attr("counts") == [120 // peers] * peers * len(seeds)
    assert agent.replay_buffer.size == 120 // peers
    agent.learn(60)
    assert agent.num_timesteps == 180 and agent.replay_buffer.size == 180 // peers
    assert sum(agent.get_env().get_attr("counts")) == 180 * len(seeds)


class EvaluateOften(BaseCallback):
    """Evaluates the agent as a user might, in the middle of training."""

    def _on_step(self):
        if self.n_calls % 30 == 0:
            self.model.evaluate(2)
            self.model.predict(np.zeros(4, np.float32))
        return True


def test_evaluations_never_disturb_training():
    plain = make(seeds=(3, 7), backbone="td3").learn(2 * 120)
    watched = make(seeds=(3, 7), backbone="td3", config={"eval_freq": 40, "n_eval_episodes": 3})
    watched.learn(2 * 120, callback=EvaluateOften())
    assert len(watched.evaluations) == 6 and len(plain.evaluations) == 1
    expected = rows_of(plain, range(4))
    for name, tensor in rows_of(watched, range(4)).items():
        assert torch.equal(tensor, expected[name]), name


@pytest.mark.parametrize("backbone", ["ddpg", "td3"])
def test_native_kernels_and_torch_train_the_same_learners(monkeypatch, backbone):
    if native.reason():
        pytest.skip(f"no native kernels: {native.reason()}")
    first = make(seeds=(3, 7), backbone=backbone).learn(2 * 50)
    monkeypatch.setattr(kernels, "available", lambda: False)
    second = make(seeds=(3, 7), backbone=backbone).learn(2 * 50)
    assert first.recipe.n_updates == 30
    expected = rows_of(second, range(4))
    actors = rows_of(first, range(4))
    assert not all(torch.equal(tensor, expected[name]) for name, tensor in actors.items())  # or one stood for both
    for name, tensor in actors.items():
        # Sums in another order. In Adam's first steps a weight whose gradient is hardly more than rounding moves
        # by 1e-3 in a direction that is rounding; hence not 1e-6, and hence few updates.
        torch.testing.assert_close(tensor, expected[name], atol=1e-4, rtol=0, msg=name)


def test_one_independent_learner():
    alone = make(method="independent", peers=1, seeds=(7,)).learn(120)
    pair = make(method="independent", peers=2, seeds=(7,)).learn(2 * 120)
    assert alone.n_learners == 1 and alone.recipe.n_updates == 100
    expected = rows_of(pair, [0])
    for name, tensor in rows_of(alone, [0]).items():
        torch.testing.assert_close(tensor, expected[name], atol=1e-4, rtol=0, msg=name)


@pytest.mark.parametrize("backbone", ["ddpg", "td3"])
@pytest.mark.parametrize("method", PEER_METHODS)
def test_three_peers_with_every_method(method, backbone):
    agent = make(method=method, peers=3, seeds=(3, 7), backbone=backbone)
    start = agent.learner.actor.clone()
    agent.learn(3 * 50)
    for name in NETWORKS:
        assert getattr(agent.learner, name).isfinite().all()
    assert ((agent.learner.actor - start).abs().amax(1) > 1e-3).all()
    assert agent.evaluations[-1].returns.shape == (6, 1)
    distils = METHODS[method].source is not None
    assert (agent.recipe.distillation is not None) == distils
    if distils and METHODS[method].coupling == "apart":
        taught = agent.recipe.distillation.adam.exp_avg_sq.any(1)
        if method == "one_way":
            assert not taught[[0, 3]].any() and taught[[1, 2, 4, 5]].all()
        elif method in ("dpd_hard", "paired", "piekd", "best_shared"):  # whom nobody surpasses, nobody teaches
            assert taught.any()
        else:
            assert taught.all()
