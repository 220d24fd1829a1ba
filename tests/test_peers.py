"""What only peers can do: settings of their own, steps that go to the best, targets and actions of a whole group."""

import dataclasses
import itertools
from functools import partialmethod
from types import SimpleNamespace

import gymnasium as gym
import numpy as np
import pandas as pd
import pytest
import torch
from helpers import make_learner, random_batch
from helpers import make_peers as make
from tiny import POINT, TINY

from policykd import DualStudent, PolicyKDError, Teacher
from policykd.benchmark import own_cell
from policykd.benchmark.cell import run_cell
from policykd.benchmark.rows import group_updates
from policykd.benchmark.spec_file import parse_spec
from policykd.core import checkpoint
from policykd.core.networks import gradient, load_state_tensors, state_tensors
from policykd.core.seeding import env_seed
from policykd.distillation.methods import PEER_METHODS
from policykd.distillation.peer_step import DistillationStep, Peers, PeerStep
from policykd.distillation.weights import Comparison, paired_advantage, weight_of
from policykd.learners.partial_view import mask_unseen_inputs
from policykd.training.allocation import Allocation
from policykd.training.group import group_actions
from policykd.training.progress import Progress

# Settings of each peer


@pytest.mark.parametrize(
    ("backbone", "setting", "values"),
    [
        ("ddpg", "learning_rate", (3e-4, 3e-3)),
        ("sac", "learning_rate", (3e-4, 3e-3)),
        ("td3", "gamma", (0.9, 0.99)),
        ("sac", "n_steps", (1, 3)),
        ("sac", "tau", (0.005, 0.05)),
        ("td3", "action_noise_std", (0.0, 0.5)),
        ("td3", "target_policy_noise", (0.0, 0.4)),
        ("sac", "target_entropy", (-1.0, -4.0)),
        ("ddpg", "gradient_steps", (1, 3)),
        ("td3", "gradient_steps", (3, 2)),
        ("sac", "gradient_steps", (4, 1)),
    ],
)
def test_varied_peers_that_share_nothing_are_separate_runs_of_each_setting(backbone, setting, values):
    together = make(backbone=backbone, config={"vary": {setting: values}}, seeds=(3, 5)).learn(160)
    for peer, value in enumerate(values):
        alone = make(backbone=backbone, config={setting: value}, seeds=(3, 5)).learn(160)
        for name in ("actor", "critic", "critic_target"):
            rows = [getattr(agent.learner, name).view(2, 2, -1)[:, peer] for agent in (together, alone)]
            torch.testing.assert_close(*rows, rtol=1e-5, atol=1e-6)


def test_a_peer_leaves_for_sb3_with_its_own_settings():
    vary = {"learning_rate": (1e-3, 1e-2), "gamma": (0.9, 0.5), "tau": (0.1, 0.2), "target_entropy": (-3.0, -5.0)}
    agent = make(backbone="sac", config={"vary": {**vary, "n_steps": (1, 3), "gradient_steps": (1, 4)}}, seeds=(0, 1))
    agent.learner.gamma[3] = 0.7  # as a learner that began anew
    for k, gamma in enumerate((0.9, 0.5, 0.9, 0.7)):
        model, values = agent.to_sb3(k), {name: each[k % 2] for name, each in agent.config.vary.items()}
        for name, value in {**values, "gamma": gamma}.items():
            assert getattr(model, name) == (value if (k, name) != (3, "gamma") else pytest.approx(value)), name
        assert model.actor.optimizer.param_groups[0]["lr"] == pytest.approx(values["learning_rate"])
    varied = make(backbone="td3", config={"vary": {"action_noise_std": (0.3, 0.5), "target_policy_noise": (0.1, 0.4)}})
    model = varied.to_sb3(1)
    assert (model.action_noise._sigma[0], model.target_policy_noise) == pytest.approx((0.5, 0.4))


@pytest.mark.parametrize("each", [1, 3])
def test_peers_at_their_own_pace_learn_and_distil_as_often_as_they_are_asked_to(each):
    config = {"vary": {"gradient_steps": (1, 3)}, "learning_starts": 20, "distill_batch_size": 8, "policy_delay": 2}
    agent = make("mutual_shared", "td3", {**config, "distill_gradient_steps": each}).learn(100)
    own = np.array([1, 3]) * (100 // 2 - 20)
    made = agent.learner.critic_adam.steps.view(2, 2)  # of two critics each
    np.testing.assert_array_equal(made, np.stack([own, own], 1))
    for adam, times in ((agent.learner.actor_adam, 1), (agent.recipe.distillation.adam, each)):
        np.testing.assert_array_equal(adam.steps[:, 0], own // 2 * times)
    assert [agent.to_sb3(k)._n_updates for k in (0, 1)] == own.tolist()
    actor = agent.to_sb3(0).actor
    assert all(state["step"] == own[0] // 2 for state in actor.optimizer.state.values())


def test_who_is_put_back_is_as_it_was_with_its_streams():
    config = {"vary": {"gradient_steps": (1, 2)}, "learning_starts": 20, "distill_batch_size": 8}
    agent = make("dpd_shared", "sac", config).learn(100)
    recipe = agent.recipe
    for number, moves in ((1, [True, True]), (2, [False, True])):
        before = {name: tensor.clone() for name, tensor in state_tensors(agent.learner).items()}
        streams = [[g.bit_generator.state for g in of] for of in (agent.learner.generators, recipe.sampling)]
        recipe.n_updates = 2 * recipe.n_updates + number - 1  # the first, then the second gradient step of an update
        recipe.step(0.5, False)
        after = state_tensors(agent.learner)
        for name in ("actor", "critic", "critic_target", "log_ent_coef", "actor_adam.exp_avg", "critic_adam.steps"):
            same = (before[name] == after[name]).view(2, -1).all(1)
            assert (~same).tolist() == moves, name
        for of, then in zip((agent.learner.generators, recipe.sampling), streams, strict=True):
            assert [g.bit_generator.state != state for g, state in zip(of, then, strict=True)] == moves


def test_who_stays_is_copied_as_it_is(monkeypatch):
    config = {"vary": {"gradient_steps": (1, 2)}, "learning_starts": 20, "distill_gradient_steps": 3}
    recipe, copied = make("mutual_shared", "sac", config).learn(100).recipe, []
    actor, update = recipe.learner.actor, PeerStep.update
    monkeypatch.setattr(PeerStep, "update", lambda *arguments: copied.append(actor[0].clone()) or update(*arguments))
    recipe.n_updates = 2 * recipe.n_updates + 1  # the second gradient step of an update is the second peer's alone
    before = actor.clone()
    recipe.step(0.5, False)
    assert len(copied) == 3 and all(torch.equal(row, before[0]) for row in copied)
    assert (actor != before).any(1).tolist() == [False, True]


def test_who_does_not_move_copies_no_critics():
    config = {"vary": {"gradient_steps": (1, 2)}, "learning_starts": 20, "distill_batch_size": 8}
    recipe = make("piekd", "sac", config).learn(100).recipe
    recipe.due = recipe.moving = np.array([False, True])
    recipe.turn = lambda number: (torch.tensor([1, 0]), torch.tensor([1, 0]), torch.ones(2))
    parts = recipe.learner.critic, recipe.critics.adam.exp_avg, recipe.critics.adam.steps
    before = [part.clone() for part in parts]
    with torch.no_grad():
        recipe.distil_more(1, False)
    for part, old in zip(parts, before, strict=True):
        assert (part != old).view(2, -1).any(1).tolist() == [False, True]


def test_whose_actor_does_not_move_draws_no_states_to_distil_at():
    config = {"vary": {"gradient_steps": (1, 2)}, "learning_starts": 20, "distill_batch_size": 8}
    recipe = make("mutual_shared", "td3", config).learn(100).recipe
    recipe.due, recipe.moving = (
        np.array([True, True]),
        np.array([False, True]),
    )  # a critic alone, as policy_delay has it
    before = [generator.bit_generator.state for generator in recipe.sampling]
    recipe._distil_batch(0)
    assert [g.bit_generator.state != state for g, state in zip(recipe.sampling, before, strict=True)] == [False, True]


@pytest.mark.parametrize(
    ("vary", "words"),
    [
        ({"learning_rate": (1e-3,)}, "vary: learning_rate has 1 value for 2 peers: give one each"),
        ({"batch_size": (1, 2)}, "cannot differ between peers"),
        ({"gamma": (0.9, 1.5)}, "gamma=1.5 must lie in"),
        ({"gamma": "ab"}, "must be numbers"),
        ({"gradient_steps": (1, 0)}, "must be integers >= 1"),
        ({"gradient_steps": (1, 2.5)}, "must be integers >= 1"),
        ({"n_steps": (1, 2.5)}, "must be integers >= 1"),
        ({"observations": ((0, 9), None)}, "vary.observations: columns must lie between 0 and 3"),
        ({"observations": ("qpos", None)}, "there is no observation group 'qpos'"),
        ({"observations": 3}, "needs columns or names of groups"),
        ({"observations": (None,)}, "vary: observations has 1 value for 2 peers"),
    ],
)
def test_what_cannot_vary_is_refused(vary, words):
    with pytest.raises(PolicyKDError, match=words):
        make(config={"vary": vary})


@pytest.mark.parametrize(
    ("method", "name", "ent_coef", "told"),
    [
        ("share_replay", "distill_learning_rate", "auto", True),
        ("paired_joint", "distill_learning_rate", "auto", True),
        ("piekd", "distill_learning_rate", "auto", False),
        ("mutual_shared", "target_entropy", 0.1, True),
        ("mutual_shared", "target_entropy", "auto_0.1", False),
    ],
)
def test_it_is_told_where_what_varies_has_no_effect(method, name, ent_coef, told, caplog):
    make(method, "sac", config={"ent_coef": ent_coef, "vary": {name: (0.1, 0.2)}})
    assert (f"vary.{name} has no effect" in caplog.text) is told


@pytest.mark.parametrize(
    ("method", "words"),
    [
        ("council", "council computes targets from the critics of the whole group"),
        ("piekd", "piekd copies critics"),
    ],
)
def test_a_value_of_one_discount_is_not_taken_for_one_of_another(method, words):
    with pytest.raises(PolicyKDError, match=f"vary.gamma: {words}, and critics of different discounts"):
        make(method, config={"vary": {"gamma": (0.5, 0.95)}})
    make(method, config={"vary": {"n_steps": (1, 3)}})


def test_values_of_unequal_discounts_are_compared_at_one():
    """A peer that earns 3 in every step is better by 1 than one that earns 2, whatever their horizons."""
    agent = make("dpd", config={"vary": {"gamma": (0.5, 0.95)}})
    worth = torch.tensor([[2.0], [3.0]]) / (1 - agent.learner.gamma[:2])
    agent.learner.value = lambda observations, policy: worth.repeat(len(observations) // 2, observations.shape[1])
    states = torch.zeros(agent.n_learners, 5, 4)
    turn = agent.recipe.peers.turns[0][:2]
    seen = agent.recipe.distillation.compare(agent.learner, states, states, None, *turn)(None)
    per_step = (seen.source_value - seen.own_value) * (1 - agent.learner.gamma)
    torch.testing.assert_close(per_step[:2, 0], torch.tensor([1.0, -1.0]))


def test_a_value_without_discount_weighs_states_by_numbers():
    """Its horizon is infinite: values of the other discount are not divided by 0."""
    agent = make("dpd", config={"vary": {"gamma": (1.0, 0.95)}})
    learner, turn = agent.learner, agent.recipe.peers.turns[0]
    states = torch.randn(agent.n_learners, 5, 4)
    info = agent.recipe.distillation.update(states, *turn, torch.tensor(1e-3), True)
    assert all(value.isfinite().all() for value in info.values()) and learner.actor.isfinite().all()


def test_both_values_of_a_weight_are_those_of_the_same_moment():
    """In joint coupling critics make a step between the peer's answer and the weight."""
    agent = make("dpd_pooled", "td3")
    learner, (peer_of, student_of) = agent.learner, agent.recipe.peers.turns[0][:2]
    states = torch.randn(2, 5, 4)
    peer, own = learner.outputs(learner.actor, states[student_of]), learner.outputs(learner.actor, states)
    compare = agent.recipe.distillation.compare(learner, states, states[student_of], peer, peer_of, student_of)
    learner.critic += 0.1
    torch.testing.assert_close(compare(own).source_value, learner.value(states[student_of], peer)[peer_of])


@pytest.mark.parametrize(
    "method", ["dpd", "dpd_pooled", "mutual_shared", "paired", "advice", "double_actor", "p3s", "share_replay"]
)
def test_discounts_may_differ_where_every_critic_judges_by_its_own(method):
    make(method, config={"vary": {"gamma": (0.5, 0.95)}})


def test_a_learning_rate_may_be_a_function_of_what_remains():
    def falling(remaining):
        return 1e-3 * remaining

    scheduled = make(config={"learning_rate": falling}).learn(100)
    assert float(scheduled.learner.learning_rate) == pytest.approx(0.0, abs=2e-5)
    constant = make(config={"learning_rate": lambda remaining: 1e-3}).learn(100)
    plain = make(config={"learning_rate": 1e-3}).learn(100)
    torch.testing.assert_close(constant.learner.actor, plain.learner.actor, rtol=1e-5, atol=1e-7)


# Parts of the observation


@pytest.mark.parametrize("backbone", ["ddpg", "td3", "sac"])
def test_a_peer_that_sees_a_part_learns_as_if_there_were_no_more(backbone):
    """The same gradient steps as of networks whose other inputs are 0, in weights and in moments."""
    parts, masked, zeroed = ((0, 2), None), make_learner(backbone, 4), make_learner(backbone, 4)
    mask_unseen_inputs(masked, 4, parts)
    load_state_tensors(zeroed, {name: tensor for name, tensor in state_tensors(masked).items() if "mask" not in name})
    for number in (1, 2):
        whole, noise = random_batch(np.random.default_rng(number), 4), masked.draw_noise(32)
        part = whole._replace(**{name: hide(getattr(whole, name)) for name in ("observations", "next_observations")})
        for learner, batch in ((masked, whole), (zeroed, part)):
            learner.update(batch, noise, number == 2, True)
    for name in ("actor", "critic", "critic_target"):
        torch.testing.assert_close(getattr(masked, name), getattr(zeroed, name))
    torch.testing.assert_close(masked.actor_adam.exp_avg, zeroed.actor_adam.exp_avg)


def hide(observations):
    """Observations ``(4, B, 4)`` of which the first peers of both groups see columns 0 and 2."""
    seen = observations.clone()
    seen[::2, :, [1, 3]] = 0
    return seen


@pytest.mark.parametrize("method", ["mutual_shared", "dpd_pooled", "paired", "council", "mutual_joint", "piekd"])
def test_what_a_peer_does_not_see_does_not_matter_to_it(method, tmp_path):
    config = {"vary": {"observations": ((0, 2), None)}, "learning_starts": 20, "distill_batch_size": 8}
    agent = make(method, "sac", config).learn(160)
    agent.save(tmp_path / "agent", include_replay=True)
    again = DualStudent.load(tmp_path / "agent.safetensors").learn(40)
    observations = np.random.default_rng(0).uniform(-1, 1, (9, 4)).astype(np.float32)
    other = observations.copy()
    other[:, [1, 3]] += 0.5
    for each in (agent.to_sb3(0), again.to_sb3(0)):
        np.testing.assert_array_equal(*(each.predict(o, deterministic=True)[0] for o in (observations, other)))
    assert not np.allclose(*(again.to_sb3(1).predict(o, deterministic=True)[0] for o in (observations, other)))
    actions = torch.zeros(2, 9, 2)
    q = [
        again.learner.q_values(again.learner.critic, torch.as_tensor(o).expand(2, -1, -1), actions)
        for o in (observations, other)
    ]
    assert torch.equal(q[0][0], q[1][0]) and not torch.equal(q[0][1], q[1][1])
    assert again.ship(gradient_steps=5).config.vary == {}


def test_parts_of_the_observation_by_name():
    varied = DualStudent("HalfCheetah-v5", backbone="sac", config={**TINY, "vary": {"observations": ("qpos", "all")}})
    weight = varied.learner.actor_network.unpack(varied.learner.actor)[0][0].abs().sum(2)
    assert (weight > 0).sum(1).tolist() == [8, 17]


# Allocation


def test_steps_follow_shares_whatever_the_lengths_of_episodes():
    """Two peers: the second returns more, and its episodes are three times as long."""
    allocation = Allocation(groups=1, peers=2, floor=0.5, episodes=2)
    left = [5, 15]
    for _ in range(4_000):
        left = [n - 1 for n in left]
        dones = np.array(left) == 0
        acted = allocation.acting[0].copy()
        allocation.stepped(dones, {e: float(acted[e]) for e in np.flatnonzero(dones)})
        left = [
            (5, 15)[allocation.acting[0, e]] if done else n for e, (n, done) in enumerate(zip(left, dones, strict=True))
        ]
    assert allocation.steps.sum() == 8_000
    np.testing.assert_allclose(allocation.credit.sum(), 0, atol=1e-9)  # what is due is what was taken
    assert allocation.best(0) == 1
    np.testing.assert_allclose(allocation.steps[0] / 8_000, [0.25, 0.75], atol=0.02)
    np.testing.assert_allclose(allocation.shares(), [[0.25, 0.75]])


def test_until_every_peer_has_episodes_all_share_alike():
    allocation = Allocation(groups=2, peers=4, floor=0.2, episodes=3)
    allocation.returns[1][0].extend([9.0, 9.0, 9.0])
    np.testing.assert_allclose(allocation.shares(), 0.25)
    for peer in range(1, 4):
        allocation.returns[1][peer].extend([1.0, 2.0])
    np.testing.assert_allclose(allocation.shares(), 0.25)  # three episodes are asked for, and these are two
    for peer in range(1, 4):
        allocation.returns[1][peer].append(3.0)
    np.testing.assert_allclose(allocation.shares()[0], 0.25)  # the other group is not touched
    np.testing.assert_allclose(allocation.shares()[1], [0.85, 0.05, 0.05, 0.05])


def test_the_best_is_the_one_whose_latest_episodes_returned_most_on_average_whoevers_environment_they_ended_in():
    allocation = Allocation(groups=2, peers=2, floor=0.5, episodes=2)
    for group in allocation.returns:
        group[0].extend([0.0, 10.0])
        group[1].extend([99.0, 6.0, 5.0])  # the last return is less, the mean of the two latest more
    assert [allocation.best(0), allocation.best(1)] == [1, 1]
    allocation.acting[0] = [1, 1]
    allocation.stepped(np.array([True, False, False, False]), {0: -7.0})
    assert [list(latest) for latest in allocation.returns[0]] == [[0.0, 10.0], [5.0, -7.0]]
    assert [allocation.best(0), allocation.best(1)] == [0, 1]
    allocation.forget(1)
    assert [len(latest) for latest in allocation.returns[0]] == [2, 0] and len(allocation.returns[1][1]) == 2


def test_credit_follows_the_returns_that_are_known_at_every_step():
    """Beside one that never remembers what a step is worth: it is read back from plain values each time."""
    rng, allocation, other = np.random.default_rng(0), Allocation(2, 3, 0.5, 2), Allocation(2, 3, 0.5, 2)
    for step in range(200):
        if step > 50 and step % 10 == 0:
            allocation.restore(other.state())
        elif step % 30 == 29:
            allocation.forget(step % 6)
        fresh, dones = Allocation(2, 3, 0.5, 2), rng.random(6) < 0.1
        fresh.restore(allocation.state())
        returns = {int(e): float(rng.normal()) for e in np.flatnonzero(dones)}
        for each in (allocation, fresh):
            each.stepped(dones, returns)
        np.testing.assert_array_equal(allocation.credit, fresh.credit)
        if step < 50:
            other.stepped(dones, returns)


def test_where_credits_are_alike_a_peer_keeps_its_environment():
    allocation = Allocation(groups=1, peers=3, floor=1.0, episodes=2)
    for _ in range(2):
        allocation.stepped(np.array([False, True, True]), {1: 0.0, 2: 0.0})
        assert allocation.acting.tolist() == [[0, 1, 2]]


def test_the_dealt_peer_acts_with_the_noise_of_the_environment():
    agent = make("share_replay", config={"allocation": "best", "learning_starts": 0}, seeds=(0, 1), peers=3)
    agent.get_env()
    recipe, observations = agent.recipe, agent.collector.observations
    recipe.allocation.acting[:] = [[2, 2, 0], [1, 1, 1]]
    state = [g.bit_generator.state for g in recipe.exploration]
    found = recipe.act(observations)
    for generator, saved in zip(recipe.exploration, state, strict=True):
        generator.bit_generator.state = saved
    noise = torch.from_numpy(np.stack([g.standard_normal((1, 2), dtype=np.float32) for g in recipe.exploration]))
    for e, actor in enumerate([2, 2, 0, 4, 4, 4]):
        everybody = torch.from_numpy(observations[e]).expand(6, 1, -1), noise[e].expand(6, -1, -1)
        expected = agent.learner.explore(agent.learner.actor, *everybody)[actor, 0]
        torch.testing.assert_close(torch.as_tensor(found[e]), expected)


@pytest.mark.parametrize("vary", [{"learning_rate": (3e-4, 3e-3)}, {"gradient_steps": (1, 2)}])
def test_a_run_with_allocation_and_varied_settings_resumes_bit_for_bit(tmp_path, vary):
    config = {"allocation": "best", "vary": vary}
    whole = make("mutual_shared", config=config, seeds=(0, 4)).learn(600)
    half = make("mutual_shared", config=config, seeds=(0, 4))
    half.learn(600, callback=lambda local_variables, _: half.num_timesteps < 260)
    half.save(tmp_path / "half", include_replay=True)
    again = DualStudent.load(tmp_path / "half.safetensors")
    again.learn(600 - again.num_timesteps)
    states = []
    for name, agent in (("whole", whole), ("again", again)):
        agent.save(tmp_path / name, include_replay=True)
        states.append(checkpoint.load(tmp_path / f"{name}.safetensors"))
    for name in ("actor", "critic", "log_ent_coef"):
        assert torch.equal(states[0]["learner"][name], states[1]["learner"][name])
    assert whole.recipe.allocation.steps.tolist() == again.recipe.allocation.steps.tolist()
    assert whole.recipe.allocation.steps.sum(1).tolist() == [600, 600]


@pytest.mark.parametrize("env", [POINT, lambda num_envs: gym.make_vec(POINT, num_envs)])
def test_the_monitor_of_a_learner_holds_the_episodes_in_which_it_acted(tmp_path, env):
    config = {**TINY, "n_eval_episodes": 0, "allocation": "best", "allocation_floor": 0.1, "allocation_episodes": 1}
    agent = DualStudent(env, backbone="sac", method="share_replay", peers=3, config=config, run_dir=tmp_path / "run")
    agent.learn(1500)
    resumed = DualStudent.load(tmp_path / "run", env=env).learn(1500)
    episodes = [len(latest) for latest in resumed.run.episodes]
    assert sum(episodes) == 60 and len(set(episodes)) > 1
    for folder, own in zip(resumed.folder.learner_folders, resumed.run.episodes, strict=True):
        rows = pd.read_csv(folder / "monitor.csv", skiprows=1)
        assert list(zip(rows.r, rows.l, strict=True)) == [(episode["r"], episode["l"]) for episode in own]
    resumed.get_env().close()


def test_allocation_needs_a_pooled_replay():
    with pytest.raises(PolicyKDError, match="allocation: best needs a pooled replay"):
        make("mutual", config={"allocation": "best"})


def test_who_is_best_is_judged_by_no_more_episodes_than_are_kept():
    with pytest.raises(PolicyKDError, match="allocation_episodes=101 must be at most 100"):
        make("mutual_shared", config={"allocation_episodes": 101})
    make("mutual_shared", config={"allocation_episodes": 100})


@pytest.mark.parametrize(
    ("config", "told"), [({"allocation": "best"}, "allocation=best"), ({"rebirth_freq": 9}, "rebirth_freq=9")]
)
def test_a_group_of_one_is_told_what_has_no_effect(config, told, caplog):
    make("share_replay", peers=1, config=config)
    assert f"{told} has no effect: the group has only 1 peer" in caplog.text
    caplog.clear()
    make("share_replay", config=config)
    assert caplog.text == ""


# Targets of a group


@pytest.mark.parametrize("backbone", ["ddpg", "td3", "sac"])
def test_targets_of_a_council_by_hand(backbone):
    learner = make_learner(backbone, 6)
    learner.critic_target += 0.1 * torch.randn(learner.critic_target.shape, generator=torch.Generator().manual_seed(0))
    learner.judges = 3
    states, actions = torch.randn(6, 5, 4).to(learner.actor), torch.rand(6, 5, 2).to(learner.actor) * 2 - 1
    found = learner.target_q(states, actions)
    for k in range(6):
        judges = range(k // 3 * 3, k // 3 * 3 + 3)
        each = [learner.q_values(learner.critic_target, states[[k] * 6], actions[[k] * 6])[j].amin(0) for j in judges]
        torch.testing.assert_close(found[k], torch.stack(each).mean(0))


def test_a_council_of_one_is_the_learner_itself():
    one, other = make("council", peers=1).learn(80), make("independent", peers=1).learn(80)
    assert torch.equal(one.learner.actor, other.learner.actor)


@pytest.mark.parametrize("method", ["council", "paired", "mutual_shared", "dpd_pooled"])
def test_groups_do_not_leak_into_one_another(method):
    alone, beside = make(method, seeds=(2,)).learn(120), make(method, seeds=(2, 9)).learn(120)
    for name in ("actor", "critic"):
        rows = len(getattr(alone.learner, name))
        torch.testing.assert_close(getattr(alone.learner, name), getattr(beside.learner, name)[:rows], rtol=0, atol=0)


# Paired advantage


def test_paired_weights_by_hand():
    advantages = torch.tensor([[[1.0, 3.0, -2.0], [3.0, 3.0, -2.0]]])
    # mean 2, 3, -2; deviation 1, 0, 0: lower bounds 1, 3, -2
    torch.testing.assert_close(paired_advantage(advantages, 1.0), torch.tensor([[0.75, 2.25, 0.0]]))
    torch.testing.assert_close(paired_advantage(advantages, 0.0), torch.tensor([[1.2, 1.8, 0.0]]))
    with pytest.raises(ValueError, match=r"\(K, M, B\)"):
        paired_advantage(advantages[0], 1.0)


@pytest.mark.parametrize("peers", [2, 3])  # among two, whom a learner copies is also who copies it
def test_what_a_critic_errs_alike_for_both_actions_changes_nothing(peers):
    seen = []

    def spy(compared: Comparison, config):
        seen.append(compared.advantages)
        return torch.ones(compared.advantages.shape[::2], dtype=torch.float64)

    learner = make_learner("td3", 2 * peers)
    method = dataclasses.replace(PEER_METHODS["paired"], weight=spy)
    states = torch.randn(2 * peers, 7, 4, dtype=torch.float64)
    turn = Peers(2 * peers, peers, "peer", torch.device("cpu")).turns[0]
    rate = torch.tensor(0.0, dtype=torch.float64)
    PeerStep(method, learner.config, learner).update(states, *turn, rate, True)
    for k, peer in enumerate([1, 0, 3, 2] if peers == 2 else [1, 2, 0, 4, 5, 3]):
        everywhere = states[[k] * 2 * peers]
        acted = learner.policy(learner.actor, everywhere)
        for place, judge in enumerate((k, peer)):
            values = [learner.q_values(learner.critic, everywhere, acted[[i] * 2 * peers])[judge] for i in (peer, k)]
            torch.testing.assert_close(seen[0][k, 2 * place : 2 * place + 2], values[0] - values[1])
    learner.critic[:, -1] += torch.arange(4.0 * peers).double() * 100  # the critics' last biases
    PeerStep(method, learner.config, learner).update(states, *turn, rate, True)
    torch.testing.assert_close(seen[0], seen[1])


def test_no_gradient_flows_through_a_weight():
    """The paired advantage knows how the own action is judged: distillation must not climb the critics by it."""
    learner, method = make_learner("td3", 4), PEER_METHODS["paired"]
    states, turn = torch.randn(4, 7, 4, dtype=torch.float64), Peers(4, 2, "peer", torch.device("cpu")).turns[0]
    seen, paired = [], weight_of(method.weight)

    def spy(compared, config):
        seen.append(paired(compared, config))
        return seen[-1]

    step = PeerStep(dataclasses.replace(method, weight=spy), learner.config, learner)
    gradients = gradient(step.towards(states, *turn, False), learner.actor)[0]
    fixed = PeerStep(dataclasses.replace(method, weight=lambda *_: seen[0].detach()), learner.config, learner)
    torch.testing.assert_close(gradients, gradient(fixed.towards(states, *turn, False), learner.actor)[0])
    assert gradients.any()


# Acting as one, and shipping one


def test_a_group_acts_by_the_mean_or_by_what_its_critics_prefer():
    learner = make_learner("td3", 4)
    observations = torch.randn(2, 5, 4, dtype=torch.float64)
    everybody = learner.policy(learner.actor, observations.repeat_interleave(2, 0)).view(2, 2, 5, -1)
    torch.testing.assert_close(group_actions(learner, observations, 2, "mean"), everybody.mean(1))
    greedy = group_actions(learner, observations, 2, "greedy")
    for g in range(2):
        values = torch.zeros(2, 5, dtype=torch.float64)
        for candidate in range(2):
            at = observations[g].expand(4, -1, -1), everybody[g, candidate].expand(4, -1, -1)
            judged = learner.q_values(learner.critic, *at).amin(1)[2 * g : 2 * g + 2]
            values[candidate] = judged.mean(0)
        best = values.argmax(0)
        torch.testing.assert_close(greedy[g], everybody[g][best, torch.arange(5)])
    chosen = group_actions(learner, observations, 2, "best", torch.tensor([1, 2]))
    assert torch.equal(chosen, torch.stack([everybody[0, 1], everybody[1, 0]]))


@pytest.mark.parametrize("wrong", ["grup", "means", None, 3])
def test_a_rule_that_does_not_exist_is_not_another(wrong):
    agent = make("share_replay").learn(80)
    asks = (
        lambda: agent.group_policies(np.zeros((1, 4), np.float32), wrong),
        lambda: agent.evaluate_group(1, rule=wrong),
        lambda: agent.ship(gradient_steps=1, rule=wrong),
    )
    for ask in asks:
        with pytest.raises(PolicyKDError, match=f"rule: {wrong!r} is unknown.*there are mean, greedy, best"):
            ask()


def test_greedy_without_critics_is_refused_with_what_works():
    agent = DualStudent(POINT, backbone="ppo", method="mutual")
    with pytest.raises(PolicyKDError, match='use rule="mean"'):
        agent.evaluate_group(1, rule="greedy")
    with pytest.raises(PolicyKDError, match='of predict: learner="group"'):
        agent.predict(np.zeros(4), learner="greedy")
    agent.evaluate_group(1, rule="mean"), agent.predict(np.zeros(4), learner="group")


def test_the_mean_action_of_a_group_is_that_of_actions_within_bounds():
    agent = DualStudent(POINT, backbone="ppo", config={"net_arch": (8,)}, compile=False)
    agent.learner.parameters[0] *= 1_000
    observation = np.array([0.3, -0.2, 0.5, 0.1], np.float32)
    agent.learner.actor_network.unpack(agent.learner.actor[:, : agent.learner.sizes[0]])[-1][1][0] += 1_000
    actions = [agent.predict(observation, learner=k)[0] for k in (0, 1)]
    assert (actions[0] == 1).all()
    np.testing.assert_allclose(agent.predict(observation, learner="group")[0], np.mean(actions, 0), atol=1e-6)


def test_peers_without_a_replay_are_not_told_to_save_one():
    with pytest.raises(PolicyKDError, match="ppo keeps no replay"):
        DualStudent(POINT, backbone="ppo", config={"net_arch": (8,)}).ship()


@pytest.mark.parametrize(
    ("ask", "words"),
    [
        (lambda agent: agent.evaluate_group(0), "needs at least 1 episode and a seed >= 0, got 0 and 0"),
        (lambda agent: agent.evaluate_group(2.5), "got 2.5 and 0"),
        (lambda agent: agent.evaluate_group(1, seed=None), "got 1 and None"),
        (lambda agent: agent.evaluate("1"), "got '1' and 0"),
        (lambda agent: agent.best_by_training(0), "episodes=0 must be at least 1"),
        (lambda agent: agent.ship(gradient_steps=0), "gradient_steps=0 must be at least 1"),
        (lambda agent: agent.ship(batch_size=0), "batch_size=0 must be at least 1"),
        (lambda agent: agent.ship(dagger_steps=-1), "dagger_steps=-1 must be at least 0"),
        (lambda agent: agent.ship(learning_rate=0.0), "learning_rate=0.0 must be positive"),
        (lambda agent: agent.ship(net_arch=8), "net_arch=8 must be tuple"),
    ],
)
def test_what_cannot_be_asked_of_a_group_is_refused(ask, words):
    with pytest.raises(PolicyKDError, match=words):
        ask(make("share_replay").learn(44))


@pytest.mark.parametrize(("asked", "steps"), [(3, 5), (3, 40), (43, 40), (7, 1)])
def test_a_shipped_student_acts_as_long_as_it_was_asked_to(asked, steps):
    agent = make("share_replay").learn(44)
    assert agent.ship(gradient_steps=steps, dagger_steps=asked).num_timesteps == asked


def test_a_student_is_shipped_from_many_environments_too():
    config = {"n_envs": 4, "gradient_steps": -1, "target_update_interval": 2}
    student = make("share_replay", "sac", config).learn(160).ship(gradient_steps=1)
    assert student.config.target_update_interval == 1
    kept = make("share_replay", "sac", {"gradient_steps": 3, "target_update_interval": 2}).learn(44)
    assert kept.ship(gradient_steps=1).config.target_update_interval == 2


def test_a_student_is_shipped_whose_batches_are_smaller_than_its_returns_are_long():
    config = {"batch_size": 2, "distill_batch_size": 2, "n_steps": 5}
    assert make("share_replay", config=config).learn(80).ship(gradient_steps=1).config.n_steps == 5


def test_predict_of_a_group_is_that_of_its_policy():
    agent = make("share_replay", seeds=(0, 1)).learn(80)
    observation = np.array([0.3, -0.2, 0.5, 0.1], np.float32)
    group = agent.learner_index("best") // 2
    for name, rule in (("group", "mean"), ("greedy", "greedy")):
        expected = agent.group_policies(np.stack([observation] * 2), rule)[group]
        np.testing.assert_allclose(agent.predict(observation, learner=name)[0], expected, atol=1e-6)


@pytest.mark.parametrize(("name", "rule"), [("group", "mean"), ("greedy", "greedy")])
def test_episodes_of_a_group_are_those_of_its_predictions(name, rule):
    agent, episodes = make("share_replay").learn(80), 2
    found = agent.evaluate_group(episodes, seed=3, rule=rule)
    env = agent.factory()
    for episode in range(episodes):
        observation, _ = env.reset(seed=env_seed(3, 0, "evaluation", 0, episode))
        done, total = False, 0.0
        while not done:
            observation, reward, terminated, truncated, _ = env.step(agent.predict(observation, learner=name)[0])
            done, total = terminated or truncated, total + reward
        assert found.returns[0, episode] == pytest.approx(total)


@pytest.mark.parametrize("backbone", ["ddpg", "td3"])
def test_the_targets_of_a_shipped_student_are_its_policies(backbone):
    student = make("mutual_shared", backbone).learn(80).ship(gradient_steps=20)
    assert torch.equal(student.learner.actor_target, student.learner.actor)


def test_the_shipped_student_does_what_its_group_did_and_leaves_like_any_other(tmp_path):
    agent = make("share_replay", seeds=(0, 1), config={"net_arch": (16, 16)}).learn(800)
    student = agent.ship(gradient_steps=800, net_arch=(32, 32))
    assert student.n_learners == 2 and student.config.net_arch == (32, 32)
    states = agent.replay_buffer.observations[::2, -100:]
    with torch.no_grad():
        wanted = group_actions(agent.learner, states, 2, "mean")
        gap = (student.learner.policy(student.learner.actor, states) - wanted).square().sum(-1).mean()
        spread = (wanted - wanted.mean(1, keepdim=True)).square().sum(-1).mean()
    assert gap < 0.1 * spread
    assert student.num_timesteps == 0
    student.to_sb3(1).save(tmp_path / "student.zip")
    with pytest.raises(PolicyKDError, match="ship: ppo keeps no replay"):
        DualStudent(POINT, backbone="ppo").ship()


def test_a_group_is_distilled_at_the_later_half_of_its_replay_while_the_rate_falls_to_0(monkeypatch):
    agent, seen = make("share_replay", seeds=(0, 1)).learn(200), []
    copy = DistillationStep.copy
    monkeypatch.setattr(DistillationStep, "copy", lambda *a: seen.append((a[1], float(a[5]))) or copy(*a))
    agent.ship(gradient_steps=5, learning_rate=1e-3, batch_size=64)
    assert [rate for _, rate in seen] == pytest.approx([1e-3, 8e-4, 6e-4, 4e-4, 2e-4])
    later = agent.replay_buffer.latest(50).reshape(2, -1, 4)  # of both peers of a group
    for states, _ in seen:
        for mine, pool in zip(states, later, strict=True):
            assert (mine[:, None] == pool[None]).all(-1).any(1).all()


def test_the_best_by_training_is_that_of_the_ten_latest_episodes_on_average():
    agent = make("share_replay", peers=3)
    for episodes, returns in zip(agent.run.episodes, ([99.0] * 5 + [1.0] * 10, [0.0] * 9 + [50.0], [6.0]), strict=True):
        episodes.extend({"r": value, "l": 1, "t": 0.0} for value in returns)
    assert agent.best_by_training().tolist() == [2] and agent.best_by_training(1).tolist() == [1]
    assert agent.best_by_training(15).tolist() == [0]
    for episodes, returns in zip(agent.run.episodes, ([-5.0], [], [-4.0]), strict=True):
        episodes.clear()
        episodes.extend({"r": value, "l": 1, "t": 0.0} for value in returns)
    assert agent.best_by_training().tolist() == [2]  # who has no episode is not the best, however bad the others are


def test_a_student_visits_the_states_to_which_its_own_actions_lead(monkeypatch):
    agent, taken = make("share_replay", seeds=(0, 1)).learn(100), []
    step = agent.collector.step
    monkeypatch.setattr(agent.collector, "step", lambda actions: taken.append(actions) or step(actions))
    states = agent.visit(3)
    assert states.shape == (4, 3, 4)
    for t in range(3):
        np.testing.assert_array_equal(taken[t], agent.policies(states[:, t].numpy()))


# In a benchmark


def test_the_peer_that_trained_best_can_be_shipped():
    agent = make("share_replay", seeds=(0, 1), config={"net_arch": (16, 16)}).learn(800)
    best = agent.best_by_training()
    student, states = agent.ship(gradient_steps=800, rule="best"), agent.replay_buffer.observations[::2, -100:]
    with torch.no_grad():
        found = student.learner.policy(student.learner.actor, states)
        every = agent.learner.policy(agent.learner.actor, states.repeat_interleave(2, 0))
    gaps = (every.view(2, 2, -1, 2) - found.unsqueeze(1)).square().mean((2, 3))
    assert gaps.argmin(1).tolist() == (best % 2).tolist() and gaps.min(1).values.max() < 0.1 * gaps.max(1).values.min()
    np.testing.assert_array_equal(agent.evaluate_group(2, 3, "best").returns, agent.evaluate(2, 3).returns[best])


def test_a_shipped_student_may_act_and_ask_its_group_where_it_came_to(monkeypatch):
    agent = make("share_replay", seeds=(0, 1), config={"net_arch": (16, 16)}).learn(400)
    before = agent.num_timesteps
    seen = []
    monkeypatch.setattr(
        "policykd.training.group.group_actions",
        lambda learner, states, *how: seen.append(states) or group_actions(learner, states, *how),
    )
    student = agent.ship(gradient_steps=40, dagger_steps=100, batch_size=64)
    assert (student.num_timesteps, agent.num_timesteps) == (100, before)
    stored = agent.replay_buffer.observations.reshape(2, -1, 4)

    def share_stored(states):
        pairs = zip(states, stored, strict=True)
        return [float((s[:, None] == pool[None]).all(-1).any(1).double().mean()) for s, pool in pairs]

    assert all(min(share_stored(states)) == 1.0 for states in seen[:20])
    assert all(max(share_stored(states)) < 0.7 and min(share_stored(states)) >= 0.5 for states in seen[20:])


def test_budgets_of_a_benchmark_count_the_group(tmp_path, monkeypatch):
    monkeypatch.setattr(DualStudent, "ship", partialmethod(DualStudent.ship, gradient_steps=20))
    monkeypatch.setattr(own_cell, "time", SimpleNamespace(perf_counter=itertools.count(0, 1_000).__next__))
    text = """
name: tiny
total_timesteps: 400
seeds: 2
first_seed: 1000
evaluations: 2
n_eval_episodes: 1
final_episodes: 2
random_steps: 96
utd: 2
settings: {net_arch: [8], batch_size: 8, buffer_size: 400}
tasks: {PolicyKD/PointReach-v0: {backbones: [sac], reference: {low: -53, high: -5, source: test}}}
methods:
  single: {}
  pair: {method: mutual_shared, settings: {vary: {gamma: [0.9, 0.99]}}}
  four: {method: share_replay, peers: 4, utd: 1, settings: {allocation: best}}
"""
    spec = parse_spec(text)
    budgets = {c.method: (c.peers, c.config["learning_starts"], c.config["gradient_steps"]) for c in spec.cells}
    assert budgets == {"single": (1, 96, 2), "pair": (2, 48, 4), "four": (4, 24, 4)}
    assert spec.cells[0].seeds == (1000, 1001)
    cell = next(cell for cell in spec.cells if cell.method == "pair")
    rows = run_cell(cell, tmp_path, lambda steps: None).rows
    phases = {phase: sum(row.phase == phase for row in rows) for phase in dict.fromkeys(row.phase for row in rows)}
    assert phases == {"curve": 8, "final": 4, "trained": 2, "group": 2, "greedy": 2, "student": 2}
    # both peers make 2 updates per group step after the group's 96 random steps
    assert {row.updates for row in rows if row.phase == "final"} == {2 * 2 * (400 - 96)}
    chosen = [row for row in rows if row.phase == "trained"]
    final = {(row.seed, row.learner): row.mean for row in rows if row.phase == "final"}
    assert all(row.mean == final[row.seed, row.learner] for row in chosen)
    seconds = {row.phase: row.seconds for row in rows}
    assert seconds["student"] == seconds["trained"] + 1_000, "it took a tick of the clock to ship"


def test_budgets_and_settings_that_contradict_are_refused():
    text = "name: x\ntotal_timesteps: 100\nseeds: 1\nevaluations: 1\nn_eval_episodes: 1\nfinal_episodes: 1\nutd: 1\n"
    text += "settings: {gradient_steps: 3}\nmethods: [single]\n"
    text += "tasks: {PolicyKD/PointReach-v0: {backbones: [sac], reference: {low: 0, high: 1, source: test}}}\n"
    with pytest.raises(PolicyKDError, match="gradient_steps=3 follows from random_steps and utd"):
        parse_spec(text)
    text = text.replace(
        "{gradient_steps: 3}\nmethods: [single]", "{vary: {gradient_steps: [1, 3]}}\nmethods: [independent]"
    )
    with pytest.raises(PolicyKDError, match="utd=1 applies to the whole group: leave"):
        parse_spec(text)
    (cell,) = parse_spec(text.replace("utd: 1\n", "")).cells
    assert group_updates(cell, 300) == (1 + 3) * (150 - 100)  # after 100 random steps of each of two peers


def test_peers_may_differ_in_their_updates_per_step_of_the_group():
    text = "name: x\ntotal_timesteps: 400\nseeds: 1\nevaluations: 1\nn_eval_episodes: 1\nfinal_episodes: 1\nutd: 1\n"
    text += "random_steps: 100\nmethods:\n"
    text += "  pair: {method: independent, utd: [1, 8], settings: {vary: {gamma: [0.9, 0.99]}}}\n"
    text += "tasks: {PolicyKD/PointReach-v0: {backbones: [sac], reference: {low: 0, high: 1, source: test}}}\n"
    (cell,) = parse_spec(text).cells
    # an update follows an own step of each peer, which is two of the group's
    assert cell.settings.vary == {"gamma": [0.9, 0.99], "gradient_steps": [2, 16]}
    assert cell.settings.learning_starts == 50
    assert group_updates(cell, 400) == (1 + 8) * (400 - 100)
    with pytest.raises(PolicyKDError, match=r"utd=\[1, 8, 2\] must be one number, or one for each of 2 peers"):
        parse_spec(text.replace("[1, 8]", "[1, 8, 2]"))
    with pytest.raises(PolicyKDError, match=r"utd=\(0, 8\) must be positive"):
        parse_spec(text.replace("[1, 8]", "[0, 8]"))


# As teachers


def test_a_learner_of_a_group_with_settings_of_its_own_is_a_teacher(tmp_path):
    vary = {"learning_rate": (3e-4, 3e-3), "target_policy_noise": (0.1, 0.3), "gradient_steps": (1, 2)}
    agent = make("share_replay", "td3", {"vary": vary})
    agent.learn(100).save(tmp_path / "agent")
    observations = np.random.default_rng(0).uniform(-1, 1, (5, 4)).astype(np.float32)
    teacher = Teacher.load(tmp_path / "agent.safetensors")
    np.testing.assert_allclose(teacher.predict(observations)[0], agent.predict(observations)[0], atol=1e-6)


def test_an_own_run_as_teacher_imports_no_module_that_it_names(tmp_path, monkeypatch):
    (tmp_path / "canary.py").write_text("raise SystemExit('imported')")
    monkeypatch.syspath_prepend(str(tmp_path))
    agent = make()
    agent.env_id = "canary:PolicyKD/PointReach-v0"
    agent.save(tmp_path / "agent")
    with pytest.raises(PolicyKDError, match="would run that module"):
        Teacher.load(tmp_path / "agent.safetensors")
    assert Teacher.load(tmp_path / "agent.safetensors", env=POINT).action_size == 2


def test_settings_of_each_peer_may_be_whole_numbers_or_numpys():
    values = {"target_entropy": np.array([-1, -2]), "tau": (1, 0.5), "learning_rate": list(np.logspace(-4, -3, 2))}
    agent = make("share_replay", config={"vary": values})
    assert agent.config.vary == {"target_entropy": [-1, -2], "tau": (1, 0.5), "learning_rate": [1e-4, 1e-3]}
    assert agent.learner.target_entropy.view(-1, 2).unique(dim=0).tolist() == [[-1, -2]]
    assert agent.learner.target_entropy.dtype == agent.learner.tau.dtype == torch.float32
    agent.learn(100)


def test_what_remains_of_a_run_is_never_less_than_nothing():
    run = Progress([(0, 0)], 3)
    run.set_end(100)
    run.num_timesteps = 102
    assert run.fraction == 1.0
