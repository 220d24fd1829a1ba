"""Each choice of the table of peer methods against a formula by hand: targets, coupling, the best, advice, rebirth."""

import numpy as np
import pytest
import torch
from helpers import make_learner, make_peers, random_batch
from tiny import POINT

from policykd import DualStudent, PolicyKDError
from policykd.core.networks import gradient, state_tensors
from policykd.distillation.critic_step import CriticStep
from policykd.distillation.methods import PEER_METHODS
from policykd.distillation.near_best import LEAST, MOST, NearBest
from policykd.distillation.peer_step import Peers, PeerStep
from policykd.training.allocation import Standings
from policykd.training.progress import Progress

NEW = ("double_actor", "advice", "mutual_joint", "paired_joint", "p3s", "piekd", "best_shared")


def make(method, backbone="td3", **arguments):
    return make_peers(method, backbone, **arguments)


@pytest.mark.parametrize("backbone", ["ddpg", "td3", "sac"])
def test_double_actor_targets_by_hand(backbone):
    learner = make_learner(backbone, 6, least_proposal=0.3)
    learner.critic_target += 0.1 * torch.randn(learner.critic_target.shape, generator=torch.Generator().manual_seed(0))
    learner.proposers = 3
    batch = random_batch(np.random.default_rng(1), 6, size=5)
    noise = learner.draw_noise(5)
    noise = noise if noise is None else noise.double()
    temperature = (learner.temperature(),) if backbone == "sac" else ()
    if backbone == "sac":
        noise = noise[:, 1]
    found = learner.target_values(batch, noise, *temperature)
    for k in range(6):
        values = []
        for peer in range(k // 3 * 3, k // 3 * 3 + 3):
            states = batch.next_observations[[k] * 6]
            actions, log_prob = learner.target_policy(states, None if noise is None else noise[[k] * 6])
            value = learner.q_values(learner.critic_target, states, actions[[peer] * 6])[k].amin(0)
            values.append(value if log_prob is None else value - temperature[0][k] * log_prob[peer])
        mixed = 0.3 * torch.stack(values).amin(0) + 0.7 * torch.stack(values).amax(0)
        expected = batch.rewards[k] + learner.config.gamma * (1 - batch.terminated[k]) * mixed
        torch.testing.assert_close(found[k], expected)


def test_joint_coupling_descends_the_sum_of_both_losses():
    learner, reference = make_learner("ddpg", 4), make_learner("ddpg", 4)
    batch = random_batch(np.random.default_rng(2), 4)
    turn = Peers(4, 2, "peer", torch.device("cpu")).turns[0]
    coefficient = torch.tensor([0.5, 2.0, 0.0, 1.0]).double()
    distance = PeerStep(PEER_METHODS["mutual_joint"], learner.config, learner).towards(batch.observations, *turn, False)
    learner.update_actor(batch, lambda actor: (coefficient * distance(actor)[0], {}))

    others = reference.policy(reference.actor, batch.observations[[1, 0, 3, 2]])[[1, 0, 3, 2]].detach()

    def loss(actor):
        actions = reference.policy(actor, batch.observations)
        values = reference.q_values(reference.critic, batch.observations, actions)[:, 0]
        copied = (actions - others).square().sum(-1).mean(1)
        return -values.mean(1) / values.detach().abs().mean(1) + coefficient * copied, {}

    gradients, _ = gradient(loss, reference.actor)
    reference.actor_adam.step(reference.actor, gradients, reference.learning_rate)
    torch.testing.assert_close(learner.actor, reference.actor)


def test_standings_count_training_episodes():
    run = Progress([(0, 0), (0, 1), (5, 0), (5, 1)], 2)
    standings = Standings(run, 2, episodes=2)
    assert standings.best().tolist() == [-1, -1]
    for learner, returns in enumerate([[9, 1, 1], [0, 2, 2], [3], []]):
        run.episodes[learner].extend({"r": r} for r in returns)
    run.n_episodes = 7
    assert standings.best().tolist() == [1, -1]
    run.episodes[3].append({"r": 4.0})
    run.n_episodes = 8
    assert standings.best().tolist() == [1, 3]
    standings.forget(np.array([1]))
    assert standings.best().tolist() == [-1, 3]  # at once, and not with the next episode


@pytest.mark.parametrize("method", ["p3s", "piekd", "best_shared"])
def test_only_the_others_copy_the_best(method):
    agent = make(method, peers=3, seeds=(0, 4))
    for learner, value in enumerate([1.0, 3.0, 2.0, 5.0, 4.0, 0.0]):
        agent.run.episodes[learner].append({"r": value, "l": 1, "t": 0.0})
    agent.run.n_episodes = 6
    copied = {0: set(), 1: set(), 2: set(), 3: set(), 4: set(), 5: set()}
    for number in range(2):
        peer_of, _, taught = agent.recipe.turn(number)
        for k in np.flatnonzero(taught.numpy()):
            copied[int(k)].add(int(peer_of[k]))
    assert copied == {0: {1}, 1: set(), 2: {1}, 3: set(), 4: {3}, 5: {3}}


def test_peers_stay_as_near_to_the_best_as_it_moves():
    learner = make_learner("td3", 4)
    states = torch.randn(4, 9, 4, dtype=torch.float64)
    near = NearBest(learner, peers=2, ratio=2.0, least=0.01)
    learner.actor[1] += 0.2 * torch.randn(learner.actor.shape[1], dtype=torch.float64)  # the first group's best moves
    best = torch.tensor([1, 3])

    def distance(actor, k, other, j):
        one, two = (learner.policy(a, states[[k // 2 * 2] * 4])[i] for a, i in ((actor, k), (other, j)))
        return float(0.5 * (one - two).square().sum(-1).mean())

    expected = []
    for group, leader in enumerate((1, 3)):
        aim = max(2.0 * distance(learner.actor, leader, near.before, leader), 0.01)
        spread = distance(learner.actor, 2 * group + (1 - leader % 2), learner.actor, leader)
        expected += [2.0 if spread > 1.5 * aim else 0.5 if spread < aim / 1.5 else 1.0] * 2
    near.update(states, best)
    assert near.strength.tolist() == expected and len(set(expected)) > 1
    assert torch.equal(near.before, learner.actor)


def test_a_group_that_knows_its_best_looks_how_far_it_is_whatever_the_others_know():
    agent = make("p3s", config={"best_freq": 1}, seeds=(0, 4)).learn(200)
    recipe, near = agent.recipe, agent.recipe.near
    agent.run.episodes[1].clear()
    recipe.standings.forget(np.array([1]))
    agent.learner.actor += 0.1
    before, strength, recipe.n_updates = near.before.clone(), near.strength.clone(), 2
    recipe._update_distill_coef(near, agent.replay_buffer.latest(9), 1)
    assert torch.equal(near.before, torch.cat((before[:2], agent.learner.actor[2:])))
    assert torch.equal(near.strength[:2], strength[:2])


def test_the_distance_from_the_best_is_looked_at_once_where_peers_vary_in_gradient_steps(monkeypatch):
    config = {"vary": {"gradient_steps": (3, 2)}, "best_freq": 2, "policy_delay": 2}
    agent, looked = make("p3s", config=config), []
    monkeypatch.setattr(agent.recipe.near, "update", lambda *_: looked.append(agent.recipe.n_updates))
    agent.learn(200)
    assert looked == list(range(4, agent.recipe.n_updates + 1, 4))  # two of the busiest peer's actor, each of two steps


def test_the_least_distance_from_the_best_is_half_the_squared_distance_of_actions():
    """P3S, equation 7: D is half the squared distance, so peers 0.2 apart are 0.02 from a best that stands still."""
    learner = make_learner("td3", 3, 1, 1, net_arch=())
    learner.actor[:] = torch.tensor([[0.0, 0.0], [0.0, np.arctanh(0.2)], [0.0, -np.arctanh(0.2)]])
    states, best = torch.zeros(3, 4, 1, dtype=torch.float64), torch.tensor([0])
    for least, factor in ((0.0132, 2.0), (0.0134, 1.0), (0.0299, 1.0), (0.0301, 0.5)):  # 0.02 / 1.5 and 0.02 * 1.5
        near = NearBest(learner, peers=3, ratio=2.0, least=least)
        near.update(states, best)
        assert near.strength.tolist() == [factor] * 3


def test_the_weight_that_keeps_peers_near_comes_back_from_its_bounds():
    learner = make_learner("td3", 2)
    states, best = torch.randn(2, 5, 4, dtype=torch.float64), torch.tensor([0])
    learner.actor[1] = learner.actor[0]
    near = NearBest(learner, peers=2, ratio=0.0, least=1e-6)
    for _ in range(1100):  # doubles end at 2^-1074 and 2^1024
        near.update(states, best)
    assert near.strength.tolist() == [LEAST] * 2
    learner.actor[1] += 0.5
    for _ in range(1100):
        near.update(states, best)
    assert near.strength.tolist() == [MOST] * 2
    learner.actor[1] = learner.actor[0]
    for _ in range(7):
        near.update(states, best)
    assert near.strength.tolist() == [1.0] * 2


def test_critics_move_towards_those_of_the_peer_where_taught():
    learner = make_learner("td3", 4)
    states, actions = torch.randn(4, 32, 4).double(), torch.rand(4, 32, 2).double() * 2 - 1
    turn = Peers(4, 2, "first", torch.device("cpu")).turns[0]
    before, step = learner.critic.clone(), CriticStep(learner)

    def gap():
        values = [learner.q_values(learner.critic, states[[k] * 4], actions[[k] * 4]) for k in (1, 3)]
        return [float((v[k] - v[k - 1]).square().mean()) for v, k in zip(values, (1, 3), strict=True)]

    first = gap()
    for _ in range(200):
        info = step.update(states, actions, *turn, torch.tensor(3e-3).double())
    assert all(now < 0.2 * then for now, then in zip(gap(), first, strict=True))
    assert info["distill/critic_loss"][[0, 2]].tolist() == [0.0, 0.0]
    assert torch.equal(learner.critic.view(4, 2, -1)[[0, 2]], before.view(4, 2, -1)[[0, 2]])


def test_critics_copy_the_values_that_the_peer_gives_to_their_own_batch():
    learner = make_learner("td3", 6)
    states, actions = torch.randn(6, 9, 4).double(), torch.rand(6, 9, 2).double() * 2 - 1
    peer_of, student_of, taught = Peers(6, 3, "peer", torch.device("cpu")).turns[0]  # in a ring: not its own inverse
    assert not torch.equal(peer_of, student_of)
    values = [learner.q_values(learner.critic, states[[k] * 6], actions[[k] * 6]) for k in range(6)]
    expected = [(values[k][k] - values[k][peer]).square().sum(0).mean() for k, peer in enumerate([1, 2, 0, 4, 5, 3])]
    info = CriticStep(learner).update(states, actions, peer_of, student_of, taught, 1e-3)
    torch.testing.assert_close(info["distill/critic_loss"], torch.stack(expected))


def test_who_rests_stays_as_it_was_also_after_it_was_taught():
    learner = make_learner("td3", 6)
    states, actions = torch.randn(6, 8, 4).double(), torch.rand(6, 8, 2).double() * 2 - 1
    policy, critics = PeerStep(PEER_METHODS["mutual"], learner.config, learner, rest=True), CriticStep(learner, True)
    turns, rate = Peers(6, 3, "first", torch.device("cpu")).turns, torch.tensor(1e-3).double()
    times = torch.zeros(6)
    for number in (0, 0, 1, 0, 1):
        turn = turns[number]
        parts = {"actor": learner.actor, "critic": learner.critic, **state_tensors(policy), **state_tensors(critics)}
        before = {name: tensor.clone() for name, tensor in parts.items()}
        policy.update(states, *turn, rate, False)
        critics.update(states, actions, *turn, rate)
        for name, tensor in parts.items():
            moved = (tensor != before[name]).view(6, -1).any(1)
            assert torch.equal(moved, turn[2] > 0), name
        times += turn[2]
    assert policy.adam.steps.flatten().tolist() == times.tolist() == [0, 2, 3, 0, 2, 3]


@pytest.mark.parametrize(
    ("method", "backbone", "peers", "rests"),
    [
        *(("one_way", backbone, peers, peers > 2) for backbone in ("td3", "ppo") for peers in (2, 3)),
        ("piekd", "td3", 2, True),
        ("mutual_shared", "td3", 3, False),
    ],
)
def test_only_where_learners_rest_by_turns_are_their_steps_counted_one_by_one(method, backbone, peers, rests):
    config = {"net_arch": (4,)}
    recipe = DualStudent(POINT, method=method, backbone=backbone, peers=peers, config=config, compile=False).recipe
    steps = [part.adam.steps for part in (recipe.distillation, getattr(recipe, "critics", None)) if part is not None]
    assert [count.ndim == 2 for count in steps] == [rests] * len(steps)


def test_advised_learners_act_by_the_proposal_that_their_own_critics_like_most():
    agent = make("advice", "sac", config={"learning_starts": 0}, peers=3, seeds=(0, 1))
    agent.get_env()
    learner, recipe = agent.learner, agent.recipe
    inputs = torch.from_numpy(agent.collector.observations).unsqueeze(1)
    noise = torch.randn(6, 1, 2)
    found = recipe.explore(inputs, noise)
    for k in range(6):
        proposals = learner.explore(learner.actor, inputs[[k] * 6], noise[[k] * 6])[k // 3 * 3 :][:3, 0]
        judged = [learner.q_values(learner.critic, inputs[[k] * 6], p.expand(6, 1, -1))[k].amin() for p in proposals]
        torch.testing.assert_close(found[k, 0], proposals[int(torch.stack(judged).argmax())])


@pytest.mark.parametrize("method", NEW)
def test_groups_do_not_leak_into_one_another(method):
    alone, beside = make(method, seeds=(2,)).learn(160), make(method, seeds=(2, 9)).learn(160)
    for name in ("actor", "critic"):
        rows = len(getattr(alone.learner, name))
        torch.testing.assert_close(getattr(alone.learner, name), getattr(beside.learner, name)[:rows], rtol=0, atol=0)


REBIRTH = {"rebirth_freq": 200, "rebirth_gradient_steps": 150, "vary": {"learning_rate": (3e-4, 3e-3)}}


@pytest.mark.parametrize(
    ("method", "config"),
    [
        ("p3s", {"best_freq": 7}),
        ("piekd", {"distill_freq": 20, "distill_gradient_steps": 5}),
        ("best_shared", {"allocation": "best", "vary": {"gamma": (0.99, 0.9999)}}),
        ("advice", {}),
        ("mutual_shared", REBIRTH | {"allocation": "best"}),
        ("share_replay", REBIRTH | {"rebirth": "oldest", "rebirth_gradient_steps": 1, "rebirth_freq": 60}),
    ],
)
def test_runs_resume_bit_for_bit(method, config, tmp_path):
    whole = make(method, "sac", config=config, seeds=(0, 4)).learn(500)
    half = make(method, "sac", config=config, seeds=(0, 4))
    half.learn(500, callback=lambda local_variables, _: half.num_timesteps < 330)
    half.save(tmp_path / "half", include_replay=True)
    again = DualStudent.load(tmp_path / "half.safetensors")
    again.learn(500 - again.num_timesteps)
    for name, tensor in state_tensors(whole.learner).items():
        assert torch.equal(tensor, state_tensors(again.learner)[name]), name


@pytest.mark.parametrize("backbone", ["td3", "sac"])
def test_the_worst_begins_anew_taught_by_the_best_and_all_others_go_on_as_they_were(backbone):
    agent = make("share_replay", backbone, config=REBIRTH | {"rebirth_freq": 10_000}, peers=2, seeds=(0, 4)).learn(400)
    for learner, value in enumerate([1.0, 2.0, 8.0, 4.0]):
        agent.run.episodes[learner].append({"r": value, "l": 1, "t": 0.0})
        agent.run.episodes[learner].append({"r": value, "l": 1, "t": 0.0})
    learner, rebirth = agent.learner, agent.recipe.rebirth
    before = {name: tensor.clone() for name, tensor in state_tensors(learner).items()}
    rebirth.take_place()
    kept, reborn, teachers = [1, 2], [0, 3], [1, 2]
    for name, tensor in state_tensors(learner).items():
        if tensor.ndim:
            rows = tensor.view(4, -1), before[name].view(4, -1)
            assert torch.equal(rows[0][kept], rows[1][kept]), name
    assert not (learner.actor_adam.exp_avg[reborn]).any() and (learner.actor[reborn] != before["actor"][reborn]).any()
    assert torch.equal(learner.critic_target.view(4, -1)[reborn], learner.critic.view(4, -1)[reborn])
    ratio = learner.learning_rate[reborn] / learner.learning_rate[teachers]
    assert all(min(abs(r - 1.25), abs(r - 0.8)) < 1e-5 for r in ratio.ravel().tolist())
    torch.testing.assert_close(learner.critic_learning_rate.view(4, -1)[:, :1], learner.learning_rate)
    states = agent.replay_buffer.observations[:1, :200].expand(4, -1, -1)
    actions = learner.policy(learner.actor, states)
    strangers = (learner.policy(before["actor"], states)[reborn] - actions[teachers]).square().mean()
    assert (actions[reborn] - actions[teachers]).square().mean() < 0.5 * strangers


def test_the_oldest_are_reborn_in_turn_and_nobody_before_all_have_episodes():
    agent = make("share_replay", config=REBIRTH | {"rebirth": "oldest", "rebirth_gradient_steps": 1}, peers=2)
    agent.get_env()
    rebirth = agent.recipe.rebirth
    rebirth.take_place()
    assert rebirth.times == 0
    agent.learn(100)
    seen = []
    for _ in range(3):
        before = agent.learner.actor.clone()
        reborn = rebirth.take_place()
        seen.append((agent.learner.actor != before).any(1).tolist())
        assert rebirth.take_place() == [] and not agent.run.episodes[reborn[0]]  # to be judged by its own episodes
        agent.run.episodes[reborn[0]].append({"r": 0.0, "l": 1, "t": 0.0})
    assert seen == [[True, False], [False, True], [True, False]]


def test_who_begins_anew_is_dealt_episodes_by_what_it_returns_from_now_on(monkeypatch):
    agent = make("share_replay", config=REBIRTH | {"rebirth_freq": 2, "allocation": "best"}, peers=2)
    agent.get_env()
    for returns in agent.recipe.allocation.returns[0]:
        returns.append(1.0)
    monkeypatch.setattr(agent.recipe.rebirth, "take_place", lambda: [1])
    agent.recipe.collect()
    assert [list(returns) for returns in agent.recipe.allocation.returns[0]] == [[1.0], []]


def test_a_learner_begins_anew_whatever_other_groups_know_and_changes_nothing_there():
    config = {"rebirth_freq": 10**5, "rebirth_gradient_steps": 2, "rebirth": "oldest"}
    both, alone = (make("share_replay", config=config, seeds=seeds).learn(200) for seeds in ((0, 4), (4,)))
    both.run.episodes[1].clear()
    before = both.learner.actor.clone()
    streams = [generator.bit_generator.state for generator in both.streams["replay"][:2]]
    assert both.recipe.rebirth.take_place() == [2] and alone.recipe.rebirth.take_place() == [0]
    torch.testing.assert_close(both.learner.actor, torch.cat((before[:2], alone.learner.actor)), rtol=0, atol=0)
    assert [generator.bit_generator.state for generator in both.streams["replay"][:2]] == streams
    assert both.recipe.rebirth.times.tolist() == [0, 1]
    both.recipe.rebirth.restore({"times": 3})  # of a checkpoint from before
    assert both.recipe.rebirth.times.tolist() == [3, 3]


def test_who_begins_anew_is_taught_by_the_best_of_the_others_and_nobody_else_is_taught(monkeypatch):
    config = {"rebirth_freq": 10**5, "rebirth_gradient_steps": 4, "rebirth": "oldest"}
    agent = make("share_replay", config=config, peers=3, seeds=(0, 4)).learn(200)
    for learner, value in enumerate([9.0, 1.0, 2.0, 0.0, 8.0, 3.0]):  # the first is the best and the oldest
        agent.run.episodes[learner].clear()
        agent.run.episodes[learner].append({"r": value, "l": 1, "t": 0.0})
    turns, rates = [], []
    monkeypatch.setattr(PeerStep, "update", lambda self, states, *turn: turns.append(turn[:3]))
    monkeypatch.setattr(CriticStep, "update", lambda self, s, a, *turn: [turns.append(turn[:3]), rates.append(turn[3])])
    assert agent.recipe.rebirth.take_place() == [0, 3]
    assert len(turns) == 8
    for peer_of, student_of, taught in turns:
        assert peer_of[[0, 3]].tolist() == [2, 4] and taught.tolist() == [1, 0, 0, 1, 0, 0]
        assert torch.equal(peer_of[student_of], torch.arange(6)) and torch.equal(peer_of // 3, torch.arange(6) // 3)
    assert [float(rate) for rate in rates] == pytest.approx([1e-3, 7.5e-4, 5e-4, 2.5e-4])
    assert [len(episodes) for episodes in agent.run.episodes] == [0, 1, 1, 0, 1, 1]


def test_settings_of_who_begins_anew_are_the_teachers_perturbed():
    vary = {"gamma": (0.5, 0.98), "tau": (0.5, 0.02), "learning_rate": (1e-2, 1e-3)}
    config = {"rebirth_freq": 10**5, "rebirth_gradient_steps": 1, "vary": vary}
    agent = make("share_replay", config=config, peers=2, seeds=(0, 1, 2, 3))
    learner = agent.learner
    agent.recipe.rebirth._perturb(np.arange(0, 8, 2), np.arange(1, 8, 2))
    for rows, teacher, of in (
        (1 - learner.gamma, 0.02, 1),  # a discount by its horizon
        (learner.tau, 0.02, 1),
        (learner.critic_tau, 0.02, 2),
        (learner.learning_rate, 1e-3, 1),
        (learner.critic_learning_rate, 1e-3, 2),
    ):
        ratios = rows.view(8, of) / teacher
        assert sorted({round(float(r), 3) for r in ratios[::2].flatten()}) == [0.8, 1.25]
        torch.testing.assert_close(ratios[1::2], torch.ones(4, of), rtol=1e-4, atol=0)
        assert (ratios == ratios[:, :1]).all()


@pytest.mark.parametrize("vary", [{}, {"gradient_steps": (1, 2)}])
def test_optimisers_of_who_begins_anew_begin_anew_too(vary):
    config = {"rebirth_freq": 10**5, "rebirth_gradient_steps": 2, "vary": vary}
    agent = make("mutual_shared", "td3", config=config, peers=2, seeds=(0,)).learn(600)
    learner, recipe = agent.learner, agent.recipe
    (k,) = recipe.rebirth.take_place()
    for adam in (learner.actor_adam, learner.critic_adam, recipe.distillation.adam):
        for tensor in (adam.steps, adam.exp_avg, adam.exp_avg_sq):
            rows = tensor.view(2, -1)
            assert not rows[k].any() and rows[1 - k].any()
    recipe.distill_rates.zero_()
    for _ in range(8):
        before = learner.actor.clone()
        recipe.step(0.5, False)
        moved = (learner.actor - before).abs().amax(1) / learner.config.learning_rate
        assert moved[k] < 1.5  # without Adam's correction the first steps are several times the learning rate


def test_a_discount_stays_within_0_and_1_when_it_is_perturbed():
    config = {"rebirth_freq": 10**5, "rebirth_gradient_steps": 1, "vary": {"gamma": (0.05, 0.05), "tau": (1, 1)}}
    agent = make("share_replay", config=config, peers=2, seeds=tuple(range(6))).learn(300)
    agent.recipe.rebirth.take_place()
    learner = agent.learner
    assert (learner.gamma != 0.05).any() and learner.gamma.min() == 0 and learner.tau.max() == 1


def test_joint_coupling_scales_reinforcement_learning_alike_whether_distillation_is_due_or_not(monkeypatch):
    agent = make("mutual_joint", "ddpg", config={"distill_freq": 2}, peers=2).learn(200)
    learner, seen = agent.learner, []
    update = learner.update

    def noted(batch, noise, *rest):
        seen.append(rest[-1](learner.actor)[0].any().item())
        return update(batch, noise, *rest)

    monkeypatch.setattr(learner, "update", noted)
    for _ in range(4):
        agent.recipe.step(0.5, False)
    assert sorted(seen) == [False, False, True, True]


def test_joint_coupling_weighs_distillation_by_its_coefficient_and_its_schedule(monkeypatch):
    config = {"distill_coef": 3.0, "distill_schedule": "linear"}
    agent = make("mutual_joint", "ddpg", config=config, peers=2).learn(200)
    learner, towards, distances, seen = agent.learner, agent.recipe.distillation.towards, [], []

    def noted(*arguments):
        loss = towards(*arguments)
        distances.append(loss(learner.actor)[0])
        return loss

    monkeypatch.setattr(agent.recipe.distillation, "towards", noted)
    monkeypatch.setattr(learner, "update", lambda *a: seen.append(a[4](learner.actor)[0]) or {})
    agent.recipe.step(0.75, False)
    assert distances[0].all()
    torch.testing.assert_close(seen[0], 3.0 * 0.25 * distances[0])


def test_the_pull_to_the_best_is_adapted_every_so_many_steps_of_the_actors_and_scales_its_coefficient(monkeypatch):
    agent = make("p3s", config={"best_freq": 3, "distill_coef": 2.0}, peers=2).learn(200)
    recipe, looked = agent.recipe, []
    monkeypatch.setattr(recipe.near, "update", lambda states, best: looked.append(moved))
    recipe.near.strength.fill_(4.0)
    for moved in range(1, 8):
        recipe._update_distill_coef(recipe.near, None, moved)
    assert looked == [3, 6] and recipe.distill_coef.tolist() == [8.0, 8.0]


def test_the_states_of_a_turn_are_those_of_the_peer_that_teaches_in_it():
    agent = make("dpd", peers=3, seeds=(0, 4)).learn(150)
    for number, teachers in ((0, [1, 2, 0, 4, 5, 3]), (1, [2, 0, 1, 5, 3, 4]), (2, [1, 2, 0, 4, 5, 3])):
        for states, teacher in zip(agent.recipe.states(number), teachers, strict=True):
            stored = agent.replay_buffer.observations[teacher]
            assert (states[:, None] == stored[None]).all(-1).any(1).all()
        assert agent.recipe.turn(number)[0].tolist() == teachers


def test_who_makes_fewer_gradient_steps_meets_all_of_its_peers(monkeypatch):
    agent = make("mutual_shared", "sac", peers=3, config={"vary": {"gradient_steps": (1, 2, 2)}})
    recipe, met = agent.recipe, [set(), set(), set()]
    learn = recipe._learn

    def noted(batch, noise, states, turn, *rest):
        for k in range(3):
            met[k] |= {int(turn[0][k])} if states is not None and recipe.moving[k] else set()
        return learn(batch, noise, states, turn, *rest)

    monkeypatch.setattr(recipe, "_learn", noted)
    agent.learn(200)
    assert met == [{1, 2}, {0, 2}, {0, 1}]


@pytest.mark.parametrize("backbone", ["ddpg", "sac"])
def test_critics_are_copied_at_each_peers_own_rate(backbone):
    config = {"distill_freq": 5, "distill_gradient_steps": 1, "vary": {"distill_learning_rate": (1e-5, 1e-3)}}
    agent = make("piekd", backbone, config=config, peers=2).learn(200)
    learner, recipe = agent.learner, agent.recipe
    before, turn = learner.critic.clone(), recipe.peers.turns[0]
    recipe.distill_learning_rate.copy_(recipe.distill_rates)
    recipe.turn = lambda number: (turn[0], turn[1], torch.ones(2))
    recipe.copy_critics(CriticStep(learner), 0)
    moved = (learner.critic - before).abs().view(2, -1).amax(1)
    torch.testing.assert_close(moved, torch.tensor([1e-5, 1e-3]), rtol=0.02, atol=1e-7)  # a first step of Adam


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"method": "mutual", "config": {"rebirth_freq": 100}}, "rebirth_freq: needs a pooled replay"),
        ({"method": "advice", "config": {"allocation": "best"}}, "all peers propose"),
        ({"method": "p3s", "config": {"least_proposal": 2}}, "least_proposal=2.0 must lie in"),
        ({"method": "mutual", "config": {"distill_freq": 0}}, "distill_freq=0 must be positive"),
        (
            {"method": "mutual", "config": {"learning_rate": "lin_1e-3", "vary": {"learning_rate": (1e-3, 1e-4)}}},
            "is a schedule: give a number, or leave it out of vary",
        ),
    ],
)
def test_what_contradicts_is_refused(arguments, words):
    with pytest.raises(PolicyKDError, match=words):
        make(**arguments)
