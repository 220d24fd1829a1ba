"""PPO on the learner axis: SB3's update, rollouts and normalisation; every learner for itself."""

import gymnasium as gym
import numpy as np
import pytest
import torch
from helpers import make_learner, sequential, to_double
from stable_baselines3 import PPO as SB3PPO
from stable_baselines3.common import policies
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.utils import explained_variance
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from policykd import DualStudent
from policykd.core.errors import PolicyKDError
from policykd.core.seeding import env_seed
from policykd.distillation.methods import METHODS, PEER_METHODS
from policykd.distillation.peer_step import Peers, PeerStep
from policykd.distillation.weights import Comparison, weight_of
from policykd.export import sb3_ppo
from policykd.learners.config import PPOConfig
from policykd.learners.ppo import PPO, Minibatch
from policykd.memory import Rollout
from policykd.memory.rollout import gae
from policykd.training.recipes import peers_on_rollouts
from policykd.training.recipes.rollout import LearnFromRollouts

OBSERVATIONS, ACTIONS, STEPS, ENVS = 5, 3, 25, 4
SETTINGS = {
    "net_arch": (24, 16),
    "n_steps": STEPS,
    "n_envs": ENVS,
    "batch_size": 32,  # of 100 steps: the last minibatch of an epoch has 4
    "n_epochs": 4,
    "learning_rate": 1e-3,
    "learning_rate_schedule": "linear",
    "clip_range": 0.1,
    "clip_range_schedule": "linear",
    "ent_coef": 0.01,
    "log_std_init": -0.5,
    "gamma": 0.97,
    "gae_lambda": 0.9,
}
PROGRESS = 0.3
POINT = "PolicyKD/PointReach-v0"
SMALL = {"net_arch": (16, 16), "n_steps": 32, "batch_size": 16, "n_epochs": 2, "eval_freq": 0, "n_eval_episodes": 1}
NORMAL = {"normalize_observation": True, "normalize_reward": True}


class Spaces(gym.Env):
    """SB3 asks a model for an environment; only its spaces are used."""

    observation_space = gym.spaces.Box(-np.inf, np.inf, (OBSERVATIONS,))
    action_space = gym.spaces.Box(-1, 1, (ACTIONS,))

    def reset(self, *, seed=None, options=None):
        return np.zeros(OBSERVATIONS, np.float32), {}


class Choosing(Spaces):
    """The same with a choice of one of several actions."""

    action_space = gym.spaces.Discrete(ACTIONS)


class SB3Model:
    """SB3's PPO with a rollout of made-up steps, and one update behind it so that Adam's state is not trivial."""

    def __init__(self, config, seed, dtype, env=Spaces):
        settings = sb3_ppo.sb3_settings(config)
        self.model = SB3PPO("MlpPolicy", DummyVecEnv([env] * ENVS), seed=seed, device="cpu", **settings)
        self.model.set_logger(Logger(None, []))
        self.model._current_progress_remaining = 1 - PROGRESS
        self.generator = np.random.default_rng(seed)
        self.fill(np.float32)
        self.model.train()
        if dtype is np.float64:
            self.model.policy.double()
            for state in self.model.policy.optimizer.state.values():
                state["exp_avg"], state["exp_avg_sq"] = state["exp_avg"].double(), state["exp_avg_sq"].double()
        self.fill(dtype)

    def fill(self, dtype):
        """A rollout whose probabilities are some way from the policy's, so that ratios are clipped."""
        buffer, draw = self.model.rollout_buffer, self.generator.normal
        buffer.reset()
        buffer.observations = draw(size=(STEPS, ENVS, OBSERVATIONS)).astype(dtype)
        discrete = isinstance(self.model.action_space, gym.spaces.Discrete)
        buffer.actions = draw(size=(STEPS, ENVS, ACTIONS)).astype(np.float32).astype(dtype)  # SB3 casts actions
        if discrete:
            buffer.actions = buffer.actions.argmax(-1)[..., None]
        buffer.rewards = draw(size=(STEPS, ENVS)).astype(dtype)
        buffer.episode_starts = (self.generator.random((STEPS, ENVS)) < 0.2).astype(dtype)
        buffer.advantages, buffer.returns = buffer.rewards.copy(), buffer.rewards.copy()
        self.dones = self.generator.random(ENVS) < 0.2
        flat = [torch.from_numpy(x).flatten(0, 1) for x in (buffer.observations, buffer.actions)]
        flat[1] = flat[1].flatten() if discrete else flat[1]
        self.last = torch.from_numpy(draw(size=(ENVS, OBSERVATIONS)).astype(dtype))
        with torch.no_grad():
            values, log_probs, _ = self.model.policy.evaluate_actions(*flat)
            last_values = self.model.policy.predict_values(self.last)
        buffer.values = values.view(STEPS, ENVS).numpy()
        buffer.log_probs = log_probs.view(STEPS, ENVS).numpy() + 0.1 * draw(size=(STEPS, ENVS)).astype(dtype)
        buffer.compute_returns_and_advantage(last_values, self.dones)
        buffer.pos, buffer.full = STEPS, True

    def steps(self):
        """The rollout as our columns, each (1, T * N, ...), before SB3 reorders it."""
        buffer = self.model.rollout_buffer
        names = ("observations", "actions", "log_probs", "advantages", "returns")
        columns = [torch.from_numpy(getattr(buffer, name).copy()).flatten(0, 1) for name in names]
        if isinstance(self.model.action_space, gym.spaces.Discrete):
            columns[1] = torch.nn.functional.one_hot(columns[1].squeeze(-1), ACTIONS).to(columns[0])
        return columns


class Orders:
    """A generator whose permutations are those given."""

    def __init__(self, orders):
        self.orders = iter(orders)

    def permutation(self, count):
        return next(self.orders)


def train_both(monkeypatch, learners, dtype, env=Spaces):
    """One whole update on both sides; returns SB3's models and our learner."""
    config = PPOConfig(**SETTINGS)
    bounds = () if env is Spaces else ("cpu", None, None)
    learner = PPO(OBSERVATIONS, ACTIONS, config, [np.random.default_rng(seed) for seed in range(learners)], *bounds)
    learner = to_double(learner) if dtype is np.float64 else learner
    # SB3 casts observations to float32 on their way into a network.
    monkeypatch.setattr(policies, "preprocess_obs", lambda obs, *args, **kwargs: obs)
    models = [SB3Model(config, seed, dtype, env) for seed in range(learners)]
    generator, ours, columns = np.random.default_rng(0), [], []
    for k, sb3 in enumerate(models):
        sb3_ppo.read_sb3(learner, k, sb3.model)
        columns.append(sb3.steps())
        orders = [generator.permutation(STEPS * ENVS) for _ in range(config.n_epochs)]
        ours.append(Orders(orders))
        # SB3 lays its rollout out environment by environment, we step by step.
        theirs = iter([order % ENVS * STEPS + order // ENVS for order in orders])
        monkeypatch.setattr(np.random, "permutation", lambda count, theirs=theirs: next(theirs))
        sb3.model.train()
    rollout, before = Rollout(STEPS, ENVS, OBSERVATIONS, ACTIONS, learners), learner.parameters.clone()
    update = LearnFromRollouts(learner, config, rollout, None, None, ours)
    with torch.no_grad():
        info = update.learn(Minibatch(*map(torch.stack, zip(*columns, strict=True))), PROGRESS)
    assert (info["train/clip_fraction"] > 0.05).all()
    assert ((learner.parameters - before).abs().amax(1) > 5e-3).all()
    return models, learner


@pytest.mark.parametrize(("learners", "env"), [(1, Spaces), (4, Spaces), (2, Choosing)])
def test_a_whole_update_is_that_of_sb3(monkeypatch, learners, env):
    models, learner = train_both(monkeypatch, learners, np.float64, env)
    for k, sb3 in enumerate(models):
        expected = sb3_ppo._to_row(learner, [p.detach() for p in sb3.model.policy.parameters()])
        # The requirement is 1e-5, which in float64 is far above rounding: ask for more. Measured: 1e-16.
        torch.testing.assert_close(learner.parameters[k], expected, atol=1e-11, rtol=0)


def test_a_whole_update_in_float32_is_that_of_sb3_up_to_rounding(monkeypatch, path):
    models, learner = train_both(monkeypatch, 4, np.float32)
    for k, sb3 in enumerate(models):
        expected = sb3_ppo._to_row(learner, [p.detach() for p in sb3.model.policy.parameters()])
        # 16 steps of 7e-4 each, along gradients exact to 1e-5 at worst. Measured: 6e-8.
        torch.testing.assert_close(learner.parameters[k], expected, atol=1e-6, rtol=0)


def test_advantages_are_those_of_sb3():
    sb3 = SB3Model(PPOConfig(**SETTINGS), 0, np.float32)
    buffer = sb3.model.rollout_buffer
    dones = np.concatenate((buffer.episode_starts[1:], sb3.dones[None].astype(np.float32)))
    with torch.no_grad():
        last_values = sb3.model.policy.predict_values(sb3.last).T
    columns = (torch.from_numpy(x[None]) for x in (buffer.rewards, buffer.values, dones))
    found = gae(*columns, last_values, SETTINGS["gamma"], SETTINGS["gae_lambda"])
    np.testing.assert_allclose(found[0], buffer.advantages, atol=1e-6)


class Script(gym.Env):
    """Observations count 1, 2, 3, ..., rewards are 1. The first episode runs out of time at 3, the second ends at 2."""

    observation_space = gym.spaces.Box(-np.inf, np.inf, (1,), np.float32)
    action_space = gym.spaces.Box(-1, 1, (1,), np.float32)
    episode = 0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.at, self.episode = 1.0, self.episode + 1
        return np.array([self.at], np.float32), {}

    def step(self, action):
        self.at += 1
        ended, out_of_time = self.episode == 2 and self.at == 2, self.episode == 1 and self.at == 3
        return np.array([self.at], np.float32), 1.0, ended, out_of_time, {}


def test_advantages_of_a_rollout_worked_out_by_hand():
    settings = {"n_steps": 4, "gamma": 0.5, "gae_lambda": 0.5, "net_arch": (), "eval_freq": 0}
    agent = DualStudent(Script, backbone="ppo", method="independent", peers=1, config={**SMALL, **settings})
    agent.learner.critic[:] = torch.tensor([1.0, 0.0])  # V(s) = s
    batches = []
    agent.recipe.learn = lambda batch, progress: batches.append(batch) or {}
    agent.learn(4)
    (batch,) = batches
    assert batch.inputs.flatten().tolist() == [1, 2, 1, 1]
    # errors: 1 + 2/2 - 1 = 1; out of time, so the value 3 beyond counts: 1 + 3/2 - 2 = 1/2; ended: 1 + 0 - 1 = 0;
    # goes on: 1 + 2/2 - 1 = 1. The first advantage adds the second times gamma * lambda = 1/4; ends cut the others.
    assert batch.advantages.flatten().tolist() == [1.125, 0.5, 0.0, 1.0]
    assert batch.returns.flatten().tolist() == [2.125, 2.5, 1.0, 2.0]
    explained = explained_variance(np.array([1.0, 2, 1, 1]), np.array([2.125, 2.5, 1, 2]))
    assert agent.recipe.info["train/explained_variance"].tolist() == pytest.approx([explained])


@pytest.mark.parametrize("n_envs", [1, 3])
def test_what_learners_see_is_what_vecnormalize_shows(n_envs):
    """The rollouts of two learners beside SB3's VecNormalize over equal environments and actions."""
    config = {**SMALL, **NORMAL, "n_steps": 60, "n_envs": n_envs, "gamma": 0.9}
    agent = DualStudent("InvertedPendulum-v5", backbone="ppo", method="independent", config=config)
    agent.learn(2 * n_envs * 59)  # before the first update empties the rollout
    rollout, last = agent.rollout_buffer, agent.collector.observations.reshape(2, n_envs, -1)
    for k, (seed, peer) in enumerate(agent.learners):
        env = VecNormalize(DummyVecEnv([agent.factory] * n_envs), gamma=0.9)
        env.venv._seeds = [env_seed(seed, peer, "environment", n) for n in range(n_envs)]
        seen = env.reset()
        for t in range(59):
            np.testing.assert_allclose(rollout.inputs[k, t], seen, atol=1e-6)
            seen, rewards, dones, _ = env.step(rollout.actions[k, t].clip(-3, 3))
            np.testing.assert_allclose(rollout.rewards[k, t], rewards, atol=1e-6)
            np.testing.assert_array_equal(rollout.dones[k, t], dones)
        np.testing.assert_allclose(agent.learner.normalise(torch.from_numpy(last))[k], seen, atol=1e-6)
        assert rollout.dones[k].any() and np.abs(rollout.rewards[k]).std() > 0.1


def test_normalisers_of_learners_never_mix():
    learner = make_learner("ppo", 3, double=False, **NORMAL, n_envs=2)
    batch = torch.randn(3, 2, 4)
    batch[1] *= 100
    rewards, dones = torch.tensor([[1.0, 1.0], [50.0, -50.0], [0.0, 2.0]]), torch.zeros(3, 2, dtype=torch.bool)
    alone = make_learner("ppo", 1, double=False, **NORMAL, n_envs=2)
    for _ in range(5):
        learner.observe(batch)
        alone.observe(batch[2:])
        scaled, alone_scaled = learner.scale_rewards(rewards, dones), alone.scale_rewards(rewards[2:], dones[2:])
    for ours, expected in (
        (learner.observation_stats, alone.observation_stats),
        (learner.return_stats, alone.return_stats),
    ):
        torch.testing.assert_close(ours.mean[2], expected.mean[0])
        torch.testing.assert_close(ours.var[2], expected.var[0])
    torch.testing.assert_close(scaled[2:], alone_scaled)
    peers = learner.normalise(batch[[1, 0, 2]])  # learner 0 sees the states of 1 by its own statistics
    expected = (batch[1] - learner.observation_stats.mean[0]) / learner.observation_stats.std[0]
    torch.testing.assert_close(peers[0], expected.clamp(-10, 10).float())
    assert (peers[0].abs() == 10).any()


def random_minibatch(generator, learners, size=16):
    draw = lambda *shape: torch.randn(learners, size, *shape, generator=generator, dtype=torch.float64)  # noqa: E731
    return Minibatch(draw(4), draw(2), draw() - 3, draw(), draw())


def test_gradients_are_clipped_learner_by_learner():
    batch = random_minibatch(torch.Generator().manual_seed(0), 3)
    batch.returns[1] *= 1e6
    rates = torch.tensor(1e-3), torch.tensor(0.2)
    together = make_learner("ppo", 3, max_grad_norm=0.5)
    rows, moments = [], []
    for k in range(3):
        alone = make_learner("ppo", 3, max_grad_norm=0.5)
        alone.update(Minibatch(*(column[k : k + 1].expand_as(column).clone() for column in batch)), *rates)
        rows.append(alone.parameters[k])
        moments.append(alone.adam.exp_avg[k])
    with torch.no_grad():
        together.update(batch, *rates)
    torch.testing.assert_close(together.parameters, torch.stack(rows), atol=1e-12, rtol=0)
    norms = together.adam.exp_avg.norm(dim=1) * 10  # Adam's first mean is a tenth of the gradient
    assert norms[1] == pytest.approx(0.5, rel=1e-5) and (norms <= 0.5 + 1e-9).all()
    torch.testing.assert_close(together.adam.exp_avg, torch.stack(moments), atol=1e-12, rtol=0)


def test_the_advantage_of_a_minibatch_of_one_step_stays_as_it_is():
    learner, batch = make_learner("ppo", 2), random_minibatch(torch.Generator().manual_seed(0), 2, size=1)
    terms = learner.terms(learner.parameters, batch, torch.tensor(1e9))
    torch.testing.assert_close(terms.policy_losses, -batch.advantages * terms.ratio)


def test_policies_in_units_of_the_environment_are_told_in_those_of_its_bounds():
    low, high = np.array([-1.0, 0.0], np.float32), np.array([3.0, 10.0], np.float32)
    learner = PPO(4, 2, PPOConfig(net_arch=(8,)), [np.random.default_rng(0)], "cpu", low, high)
    learner.log_std.copy_(torch.tensor([[2.0, 5.0]]).log() - 1)
    inputs, noise = torch.randn(1, 5, 4), torch.tensor([[-9.0, 9.0], [0.5, -0.5], [0, 0], [1, 1], [9, -9]])
    means, said = learner.distribution(learner.actor, inputs)[0], learner.outputs(learner.actor, inputs)
    scaled = torch.stack(((means[..., 0] - 1) / 2, (means[..., 1] - 5) / 5), -1)
    torch.testing.assert_close(said.mean, scaled)
    torch.testing.assert_close(said.std, torch.full((1, 5, 2), np.exp(-1)))
    taken = learner.sample(inputs, noise.unsqueeze(0))
    executed = taken.numpy().clip(low, high)
    explored = learner.explore(learner.actor, inputs, noise.unsqueeze(0)).numpy()
    np.testing.assert_allclose(explored * [2, 5] + [1, 5], executed, atol=1e-5)


def spread_learner(learners=2, **changes):
    """Learners whose values, statistics and scales of reward differ."""
    learner = make_learner("ppo", learners, activation_fn="relu", **NORMAL, **changes)
    generator = torch.Generator().manual_seed(1)
    learner.parameters += 0.3 * torch.randn(learner.parameters.shape, generator=generator, dtype=torch.float64)
    for stats in (learner.observation_stats, learner.return_stats):
        stats.mean += torch.randn(stats.mean.shape, generator=generator, dtype=torch.float64)
        stats.var *= torch.arange(1.0, learners + 1).view(-1, *[1] * (stats.var.ndim - 1)) ** 3
    return learner


@pytest.mark.parametrize("scale_free", [False, True])
def test_the_distillation_step_is_that_of_the_paper(scale_free):
    learner = spread_learner(alpha=0.7, scale_free=scale_free)
    states = torch.randn(2, 64, 4, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    actors = [sequential(learner.actor_network, learner.actor[k, : learner.sizes[0]]) for k in range(2)]
    critics = [sequential(learner.critic_network, learner.critic[k]) for k in range(2)]
    before, log_std = learner.parameters.clone(), learner.log_std.clone()

    def seen(k, states):
        stats = learner.observation_stats
        return ((states - stats.mean[k]) / (stats.var[k] + 1e-8).sqrt()).clamp(-10, 10)

    def value(k, states):  # back in units of the task's own reward
        return critics[k](seen(k, states)).squeeze(1) * (learner.return_stats.var[k] + 1e-8).sqrt()

    losses = []
    for k, peer in ((0, 1), (1, 0)):
        with torch.no_grad():
            xi = value(peer, states[k]) - value(k, states[k])
            target = actors[peer](seen(peer, states[k]))
            weight = torch.exp(0.7 * (xi / (xi.std(correction=0) + 1e-6) if scale_free else xi))
        distance = (actors[k](seen(k, states[k])) - target).square().sum(1)
        losses.append((weight * distance).sum() / weight.sum())
    optimizers = [torch.optim.Adam(actor.parameters(), lr=1e-3) for actor in actors]
    for loss, optimizer in zip(losses, optimizers, strict=True):
        loss.backward()
        optimizer.step()
    step = PeerStep(METHODS["dpd"], learner.config, learner)
    turn = Peers(2, 2, "peer", torch.device("cpu")).turns[0]
    info = step.update(states, *turn, torch.tensor(1e-3, dtype=torch.float64), True)
    torch.testing.assert_close(info["distill/loss"], torch.stack(losses).detach())
    assert (info["distill/weight_max"] > 1.5).all()
    for k, actor in enumerate(actors):
        flat = torch.cat([(p.T if p.ndim == 2 else p).detach().reshape(-1) for p in actor.parameters()])
        torch.testing.assert_close(learner.actor[k, : learner.sizes[0]], flat, atol=1e-10, rtol=0)
    # Neither the deviations nor the value networks, nor PPO's own optimiser, know of it.
    torch.testing.assert_close(learner.log_std, log_std, rtol=0, atol=0)
    assert torch.equal(learner.critic, before[:, -learner.sizes[2] :]) and not learner.adam.exp_avg.any()


def test_the_released_code_weighs_the_wrong_way_round_and_less():
    learner = spread_learner(alpha=0.5)
    states = torch.randn(2, 64, 4, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    seen = learner.value(states, learner.outputs(learner.actor, states))
    own, peer = seen, learner.value(states[[1, 0]], learner.outputs(learner.actor, states[[1, 0]]))[[1, 0]]
    weight = weight_of(METHODS["dpd_published_code"].weight)(Comparison(peer, own, None), learner.config)
    expected = torch.exp(0.5 * (own - peer)).clamp(0.01, 100)
    torch.testing.assert_close(weight, expected / expected.sum(1, keepdim=True))
    ahead = own - peer
    for k in range(2):  # most where the learner itself is ahead
        assert weight[k, ahead[k].argmax()] > 2 * weight[k, ahead[k].argmin()]
    torch.testing.assert_close(weight.mean(1), torch.full((2,), 1 / 64, dtype=torch.float64))


def test_the_shared_optimiser_is_that_of_ppo():
    learner = spread_learner()
    learner.update(random_minibatch(torch.Generator().manual_seed(0), 2), torch.tensor(1e-3), torch.tensor(0.2))
    before, momentum = learner.parameters.clone(), learner.adam.exp_avg.clone()
    step = PeerStep(METHODS["mutual"], learner.config, learner, learner.step_actor)
    turn = Peers(2, 2, "peer", torch.device("cpu")).turns[0]
    step.update(torch.randn(2, 8, 4, dtype=torch.float64), *turn, torch.tensor(1e-3), False)
    assert learner.adam.steps == 2 and not step.adam.exp_avg.any()
    critic = slice(-learner.sizes[2], None)
    torch.testing.assert_close(learner.adam.exp_avg[:, critic], 0.9 * momentum[:, critic])
    assert (learner.critic != before[:, critic]).any()  # by PPO's momentum: why it is not the default


def test_who_only_teaches_is_not_moved_by_the_shared_optimiser():
    agent = make(method="one_way", peers=2, seeds=(0, 1), config={"distill_optimizer": "shared"})
    finish, learner, seen = agent.recipe.finish, agent.learner, []

    def spy(progress):
        parts = learner.parameters, learner.adam.exp_avg, learner.adam.exp_avg_sq
        before = [part.clone() for part in parts]
        info = finish(progress)
        seen.append([(part != old).any(1).tolist() for part, old in zip(parts, before, strict=True)])
        return info

    agent.recipe.finish = spy
    agent.learn(2 * 70)
    assert seen and all(moved == [False, True, False, True] for update in seen for moved in update)


def test_states_of_distillation_are_the_peers_most_recent():
    rollout = Rollout(50, 2, 3, 1, 2)
    for t in range(50):
        states = torch.arange(2 * 2 * 3).reshape(2, 2, 3) + 100.0 * t
        rollout.add(states, states, torch.zeros(2, 2, 1), torch.zeros(2, 2), torch.zeros(2, 2))
    generators = [np.random.default_rng(0), np.random.default_rng(1)]
    drawn = rollout.sample_states(500, generators, np.array([1, 0]), 20).numpy()
    for k, peer in ((0, 1), (1, 0)):
        latest = rollout.observations[peer, 40:].reshape(-1, 3)
        assert {tuple(row) for row in drawn[k]} == {tuple(row) for row in latest.numpy()}
    assert len(np.unique(rollout.sample_states(5000, generators, np.array([1, 0]), None)[0].numpy(), axis=0)) == 100


def make(env=POINT, *, config=None, **arguments):
    return DualStudent(env, backbone="ppo", config=SMALL | (config or {}), compile=False, **arguments)


def test_every_other_update_peers_teach_in_turn_at_their_latest_states_at_a_rate_that_falls():
    config = {"distill_freq": 2, "distill_gradient_steps": 3, "distill_recent": 7, "distill_batch_size": 9}
    config |= {"distill_schedule": "linear", "distill_learning_rate": 1e-2}
    agent, seen = make(method="dpd", peers=3, config=config), []

    def look(states, peer_of, student_of, taught, rate, diagnose):
        latest = agent.rollout_buffer.observations[peer_of, -7:, 0]
        assert (states[:, :, None] == latest[:, None]).all(-1).any(-1).all()
        seen.append((agent.recipe.n_updates, peer_of.tolist(), float(rate)))
        return {}

    agent.recipe.distillation.update = look
    agent.learn(3 * 32 * 5)
    one, other = [1, 2, 0], [2, 0, 1]
    assert [peer_of for _, peer_of, _ in seen] == [other, one, other, one, other, one]
    assert [number for number, _, _ in seen] == [4] * 3 + [8] * 3  # two epochs an update
    assert [rate for *_, rate in seen] == pytest.approx([6e-3] * 3 + [2e-3] * 3)


def test_the_distance_of_peers_is_at_their_latest_states(monkeypatch):
    agent, looked = make(peers=2, method="independent", config={"n_envs": 2}), []
    monkeypatch.setattr(peers_on_rollouts, "LATEST", 6)
    monkeypatch.setattr(peers_on_rollouts, "action_distance", lambda learner, states, *turn: looked.append(states) or 0)
    agent.recipe.learn = lambda batch, progress: {}
    agent.learn(2 * 2 * 32)
    assert torch.equal(looked[0], agent.rollout_buffer.observations[:, -3:].flatten(1, 2))


def test_the_learning_rate_and_the_clip_range_follow_schedules_of_their_own():
    def rates(**schedules):
        config = PPOConfig(batch_size=4, n_epochs=1, learning_rate=0.5, clip_range=0.2, **schedules)
        recipe, seen = (
            LearnFromRollouts(make_learner("ppo", 2), config, None, None, None, [np.random.default_rng(0)] * 2),
            [],
        )
        recipe._learn = lambda batch, rate, clip: seen.append((float(rate), float(clip))) or {"none": torch.zeros(2)}
        recipe.learn(random_minibatch(torch.Generator(), 2, size=4), 0.25)
        return seen[0]

    assert rates(learning_rate_schedule="linear", clip_range_schedule="constant") == pytest.approx((0.375, 0.2))
    assert rates(learning_rate_schedule="constant", clip_range_schedule="linear") == pytest.approx((0.5, 0.15))


@pytest.mark.parametrize("method", PEER_METHODS)
def test_every_method_runs_or_is_refused(method):
    arguments = {"method": method, "peers": 3, "seeds": (3, 7)}
    if METHODS[method].replay == "pooled":
        with pytest.raises(
            PolicyKDError, match=f"{method} pools the replays of a group, but ppo does not use a replay"
        ):
            make(**arguments)
        return
    agent = make(**arguments)
    start = agent.learner.parameters.clone()
    agent.learn(3 * 70)
    assert agent.recipe.n_updates == 4
    assert agent.learner.parameters.isfinite().all() and ((agent.learner.parameters - start).abs().amax(1) > 1e-3).all()
    distils = METHODS[method].source is not None
    assert (agent.recipe.distillation is not None) == distils
    if method == "one_way":
        taught = agent.recipe.distillation.adam.exp_avg_sq.any(1)
        assert not taught[[0, 3]].any() and taught[[2, 5]].all()


@pytest.mark.parametrize("config", [{}, {**NORMAL, "n_envs": 2}])
def test_a_learner_of_a_batch_is_the_learner_alone(config):
    alone = make(method="independent", peers=1, seeds=(7,), config=config).learn(160)
    many = make(method="independent", peers=2, seeds=(3, 7), config=config).learn(2 * 160)
    torch.testing.assert_close(many.learner.parameters[2], alone.learner.parameters[0], atol=1e-5, rtol=0)
    torch.testing.assert_close(many.learner.observation_stats.mean[2], alone.learner.observation_stats.mean[0])


def test_groups_never_mix_and_peers_do():
    rows = []
    for disturbed in (False, True):
        agent = make(seeds=(0, 1), config=NORMAL).learn(2 * 40)
        if disturbed:
            agent.learner.parameters[0] += 0.1
        rows.append(agent.learn(2 * 60).learner.parameters.clone())
    assert torch.equal(rows[0][2:], rows[1][2:])
    assert (rows[0][:2] != rows[1][:2]).any(1).all()


@pytest.mark.parametrize("n_envs", [1, 3])
def test_the_budget_counts_all_peers_and_environments(n_envs, tmp_path):
    agent = make(seeds=(0, 1), config={"n_envs": n_envs, **NORMAL}, run_dir=tmp_path / "run").learn(2 * n_envs * 60)
    assert agent.num_timesteps == 2 * n_envs * 60
    assert agent.get_env().num_envs == 4 * n_envs
    assert agent.rollout_buffer.position == 60 - 32 and agent.recipe.n_updates == 2
    assert [len(episodes) for episodes in agent.run.episodes] == [n_envs] * 4  # of 50 steps
    assert float(agent.learner.observation_stats.count) == pytest.approx(61 * n_envs, abs=1e-3)
    assert len(list((tmp_path / "run").rglob("*monitor.csv"))) == 4 * n_envs
    first = agent.get_env().observations
    assert len(np.unique(first, axis=0)) == len(first)


def test_evaluation_and_prediction_leave_the_statistics_alone():
    agent = make(config=NORMAL).learn(100)
    before = agent.learner.observation_stats.mean.clone(), agent.learner.return_stats.var.clone()
    agent.evaluate(3)
    agent.predict(np.full((7, 4), 100.0))
    agent.predict(np.full(4, 100.0), deterministic=False)
    assert torch.equal(agent.learner.observation_stats.mean, before[0])
    assert torch.equal(agent.learner.return_stats.var, before[1])


@pytest.mark.parametrize("env", ["InvertedPendulum-v5", POINT])
@pytest.mark.parametrize("config", [{}, {**NORMAL, "n_envs": 2, "learning_rate_schedule": "linear"}])
def test_to_sb3_is_a_real_model_with_its_vecnormalize(env, config, tmp_path):
    agent = make(env, config=config, run_dir=tmp_path / "run").learn(300)
    observations = np.random.default_rng(3).normal(size=(200, 4)).astype(np.float32)
    for k in range(2):
        model = agent.to_sb3(k)
        normalizer = model.get_vec_normalize_env()
        assert type(model) is SB3PPO and (normalizer is not None) == bool(config)
        shown = observations if normalizer is None else normalizer.normalize_obs(observations)
        expected = agent.predict(observations, learner=k)[0]
        np.testing.assert_allclose(model.predict(shown, deterministic=True)[0], expected, atol=1e-6)
        assert model.num_timesteps == 300 and model._n_updates == agent.recipe.n_updates
        folder = agent.folder.learner_folders[k]
        loaded = SB3PPO.load(folder / "best_model.zip", device="cpu")
        if config:
            statistics = folder / env.replace("/", "-") / "vecnormalize.pkl"
            shown = VecNormalize.load(statistics, DummyVecEnv([agent.factory])).normalize_obs(observations)
        np.testing.assert_allclose(loaded.predict(shown, deterministic=True)[0], expected, atol=1e-6)
    before = model.policy.log_std.clone()
    model.learn(128)  # goes on training in plain SB3
    assert (model.policy.log_std != before).any()


@pytest.mark.parametrize("stop", [100, 128, 152])  # within, at the end of, and after the start of a rollout
def test_resumption_is_exact(tmp_path, stop):
    calls = []

    def interrupt(local_variables, global_variables):
        calls.append(1)
        return len(calls) < stop // 4

    config = {**NORMAL, "n_envs": 2, "distill_schedule": "linear", "clip_range_schedule": "linear", "log_freq": 20}
    agent = make("InvertedPendulum-v5", seeds=(0, 1), config=config).learn(400, callback=interrupt)
    assert agent.num_timesteps == stop
    agent.save(tmp_path / "agent", include_replay=True)
    again = DualStudent.load(tmp_path / "agent.safetensors")
    assert again.recipe.info.keys() == agent.recipe.info.keys()
    agents = [one.learn(400 - stop) for one in (agent, again)]
    for name in ("parameters", "discounted_rewards"):
        assert torch.equal(*(getattr(one.learner, name) for one in agents)), name
    for name in ("observations", "rewards"):
        np.testing.assert_array_equal(*(getattr(one.rollout_buffer, name) for one in agents))
    assert torch.equal(*(one.learner.observation_stats.var for one in agents))
    assert torch.equal(*(one.recipe.distillation.adam.exp_avg for one in agents))
    np.testing.assert_array_equal(*(one.evaluations[-1].returns for one in agents))
    assert torch.equal(*(one.recipe.info["train/loss"] for one in agents))


@pytest.mark.slow
def test_both_peers_learn():
    # At these settings all 8 learners of four seeds were at 0.17 of the first return after 16,384 steps.
    config = {"n_steps": 256, "batch_size": 64, "n_epochs": 5, "gamma": 0.95, "n_eval_episodes": 20, **NORMAL}
    agent = make(config={**config, "learning_rate": 3e-3})
    before = agent.evaluate(20, seed=1).returns.mean(1)
    agent.learn(16_384)
    after = agent.evaluate(20, seed=1).returns.mean(1)
    assert (after > 0.3 * before).all(), (before, after)  # returns are negative distances


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"target_kl": 0.01}, "target_kl=0.01 is not supported: learners share Adam's step count"),
        ({"n_steps": 1}, "n_steps=1"),
        ({"clip_range": 0.0}, "clip_range"),
        ({"gae_lambda": 1.5}, "gae_lambda"),
        ({"buffer_size": 10}, "unknown key 'buffer_size' for PPOConfig"),
    ],
)
def test_what_cannot_work_is_refused_in_one_line(change, message):
    with pytest.raises(PolicyKDError, match=message) as error:
        make(config=change)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["zoo", "quick", "dpd_paper", "dpd_published_code"])
def test_presets(name):
    for env in ("HalfCheetah-v5", "Pendulum-v1", POINT):
        config = DualStudent(env, backbone="ppo", config=name).config
        assert config.normalize_observation or env == "Pendulum-v1"
    assert config != PPOConfig()
