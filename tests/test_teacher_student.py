"""Students of a frozen teacher: what they learn from, what the teacher keeps, and what is refused."""

import copy

import numpy as np
import pytest
import torch
from helpers import make_peers
from stable_baselines3 import PPO, SAC, TD3
from tiny import POINT

from policykd import DualStudent, Teacher, TeacherStudent
from policykd.cli import main
from policykd.core.errors import PolicyKDError
from policykd.distillation.labels import Labels
from policykd.distillation.methods import METHODS, TEACHER_METHODS
from policykd.distillation.schedules import dual_ascent
from policykd.memory import LabelledStates
from policykd.teachers import TeacherScore
from policykd.training.loading import load_agent
from policykd.training.recipes.fine_tune import FineTune

QUIET = {"eval_freq": 0, "n_eval_episodes": 2, "log_freq": 100, "teacher_episodes": 5, "net_arch": (8, 8)}
COPY = {**QUIET, "round_steps": 40, "round_updates": 20, "distill_batch_size": 32, "dataset_size": 5000}
ROLL = {**QUIET, "n_steps": 25, "n_envs": 2, "n_epochs": 2, "batch_size": 25, "teacher_std": 0.2}
REPLAY = {**COPY, "batch_size": 16, "buffer_size": 500, "learning_starts": 20}


def expert(observation):
    """The proportional controller of PointReach."""
    return np.clip(10 * observation[2:4], -1, 1)


@pytest.fixture(scope="module")
def critic_teacher():
    """A SAC agent: it has a standard deviation and a value, and is squashed; not good, but a teacher to be had soon."""
    config = {"net_arch": (8, 8), "learning_starts": 20, "batch_size": 8, "eval_freq": 0, "buffer_size": 500}
    return Teacher.load(DualStudent(POINT, backbone="sac", method="independent", peers=1, config=config).learn(60))


def settings(backbone, method):
    config = COPY if TEACHER_METHODS[method].coupling == "alone" else ROLL if backbone == "ppo" else REPLAY
    return {**config, "allow_weak_teacher": True}


CASES = [
    (method, backbone)
    for method, row in TEACHER_METHODS.items()
    for backbone in ("ppo", "td3", "sac")
    if backbone == "ppo" or not row.on_policy
]


@pytest.mark.parametrize(("method", "backbone"), CASES)
def test_every_method_trains_and_leaves_its_teacher_as_it_was(critic_teacher, method, backbone):
    before = [parameter.clone() for parameter in critic_teacher.parameters()]
    agent = TeacherStudent(
        POINT, critic_teacher, method=method, backbone=backbone, seeds=(0, 1), config=settings(backbone, method)
    )
    start = agent.learner.actor.clone()
    agent.learn(120)
    assert (agent.learner.actor != start).any(1).all()
    assert torch.isfinite(agent.learner.actor).all()
    assert agent.evaluations[-1].returns.shape == (2, 2)
    assert before
    for old, new in zip(before, critic_teacher.parameters(), strict=True):
        assert torch.equal(old, new)
        assert new.grad is None
        assert not new.requires_grad


@pytest.mark.parametrize("backbone", ["ppo", "td3", "ddpg", "sac"])
def test_dagger_learns_the_experts_behaviour(backbone):
    config = {**COPY, "net_arch": (32, 32), "round_steps": 100, "round_updates": 100, "distill_learning_rate": 3e-3}
    agent = TeacherStudent(POINT, expert, backbone=backbone, config=config).learn(2000)
    score = agent.score_teacher()
    # A random policy returns -53; the expert -5.
    assert agent.evaluate(30, seed=9).returns.mean() > score.mean - 6


@pytest.mark.parametrize("backbone", ["ddpg", "td3"])
def test_the_targets_of_distilled_students_are_their_policies_also_in_sb3(backbone):
    agent = TeacherStudent(POINT, expert, backbone=backbone, config=COPY).learn(80)
    for _ in range(2):
        model = agent.to_sb3()
        for own, target in zip(model.actor.parameters(), model.actor_target.parameters(), strict=True):
            assert torch.equal(own, target)
        agent.learn_from({"observations": np.random.default_rng(0).uniform(-1, 1, (60, 4))}, 20)


def test_the_data_set_of_dagger_grows_and_keeps_every_state():
    agent = TeacherStudent(POINT, expert, config={**COPY, "n_envs": 2})
    sizes = []

    def count(local_variables, global_variables):
        sizes.append(agent.dataset.size)
        return True

    agent.learn(200, callback=count)
    assert sizes == list(range(2, 201, 2))  # each state of each environment, once
    states, answers = agent.dataset.storage[0, :200].split([4, 7], dim=-1)
    labels = Labels.unpack(answers.unsqueeze(0))
    expected = np.array([expert(state) for state in states.numpy()])
    np.testing.assert_allclose(labels.policy.actions[0].numpy(), expected, atol=1e-6)
    assert len(np.unique(states.numpy(), axis=0)) > 90  # at the goal the expert stands still
    early, late = states[:40], states[160:]
    drawn, _ = agent.dataset.sample(2000, [np.random.default_rng(0)])
    for part in (early, late):  # the first round is still learnt from in the last
        assert (drawn[0].unsqueeze(1) == part.unsqueeze(0)).all(-1).any(1).sum() > 200


def test_a_full_data_set_keeps_the_latest_states_with_their_answers():
    dataset = LabelledStates(5, 1, 1, learners=2)
    for step in range(3):
        states = 10.0 * torch.arange(2).view(2, 1, 1) + 3 * step + torch.arange(3.0).view(1, 3, 1)
        dataset.add(states, -states)
    assert (dataset.size, dataset.total) == (5, 9)
    for recent, kept in ((None, {4, 5, 6, 7, 8}), (2, {7, 8})):
        states, answers = dataset.sample(200, [np.random.default_rng(k) for k in range(2)], recent)
        assert torch.equal(answers, -states)
        assert [set(rows.flatten().tolist()) for rows in states] == [kept, {10 + state for state in kept}]


def test_student_driven_learns_from_the_latest_round_alone(monkeypatch):
    asked = []
    agent = TeacherStudent(POINT, expert, method="student_driven", config={**COPY, "n_envs": 2})
    sample = agent.dataset.sample
    monkeypatch.setattr(agent.dataset, "sample", lambda n, g, recent: asked.append(recent) or sample(n, g, recent))
    agent.learn(80)
    assert set(asked) == {40}
    states, _ = sample(500, [np.random.default_rng(0)], 40)
    latest = agent.dataset.storage[0, 40:80, :4]
    assert (states[0].unsqueeze(1) == latest.unsqueeze(0)).all(-1).any(1).all()


@pytest.mark.parametrize(("method", "teacher_acts"), [("bc", 1.0), ("student_driven", 0.0)])
def test_who_acts(method, teacher_acts):
    agent = TeacherStudent(POINT, expert, method=method, config=COPY)
    agent.get_env()
    observations = torch.from_numpy(agent.collector.observations).view(1, agent.n_envs, -1)
    teacher = Labels.unpack(agent.tutor.answers()).policy.actions
    acted = agent.recipe.act(observations, teacher)
    own = agent.learner.policy(agent.learner.actor, observations).clamp(-1, 1)
    assert torch.equal(acted, teacher if teacher_acts else own)


def test_beta_falls_round_by_round_and_mixes_as_often_as_it_says():
    agent = TeacherStudent(POINT, expert, config={**COPY, "n_envs": 500, "beta_rounds": 4, "round_steps": 500})
    agent.get_env()
    decaying = TeacherStudent(POINT, expert, config={**COPY, "beta_schedule": "exponential", "beta_decay": 0.5}).recipe
    assert [decaying.collector.run.num_timesteps, decaying.beta()] == [0, 1.0]
    decaying.collector.run.num_timesteps = 3 * COPY["round_steps"]
    assert decaying.beta() == 0.125
    observations = torch.from_numpy(agent.collector.observations).view(1, 500, -1)
    teacher = torch.full((1, 500, 2), 0.5)
    for round_number, beta in enumerate((1.0, 0.75, 0.5, 0.25, 0.0, 0.0)):
        agent.run.num_timesteps = 500 * round_number + 123
        assert agent.recipe.beta() == beta
        share = (agent.recipe.act(observations, teacher) == 0.5).all(-1).double().mean()
        assert abs(share - beta) < 0.08


def test_noise_is_acted_and_not_learnt():
    agent = TeacherStudent(POINT, expert, method="bc", config={**COPY, "collect_noise_std": 0.5, "n_envs": 100})
    agent.get_env()
    observations = torch.from_numpy(agent.collector.observations).view(1, 100, -1)
    actions = torch.zeros(1, 100, 2)
    acted = agent.recipe.act(observations, actions)
    assert 0.4 < acted.std() < 0.6
    assert (actions == 0).all()
    assert agent.recipe.act(observations, actions + 0.9).max() == 1  # what is acted stays within the bounds


def test_without_rl_the_rate_falls_and_bc_and_dagger_learn_from_all_states(monkeypatch):
    agent = TeacherStudent(POINT, expert, config={**COPY, "n_envs": 2, "distill_learning_rate": 1e-2}).learn(44)
    recipe, told = agent.recipe, []
    assert recipe.n_updates == COPY["round_updates"]  # one round is over, and once
    assert agent.learner.observation_stats.count == pytest.approx(44, abs=0.01)  # each state of two environments
    monkeypatch.setattr(recipe, "teach", lambda rate, last, recent: told.append((float(rate), recent)) or {})
    recipe.step(0.25)
    assert told == [(pytest.approx(7.5e-3), None)] * COPY["round_updates"]
    told.clear()
    recipe.fit(4, 4, lambda *_: None)
    assert told == [(pytest.approx(rate), None) for rate in (1e-2, 7.5e-3, 5e-3, 2.5e-3)]


def test_the_teacher_is_asked_once_for_every_state(monkeypatch):
    asked = []
    for method in ("dagger", "kickstarting", "teacher_distill"):
        config = {**(COPY if method == "dagger" else ROLL), "n_envs": 2}
        agent = TeacherStudent(POINT, expert, method=method, config=config)
        agent.score_teacher()
        asked.clear()
        recall = agent.panel.recall
        monkeypatch.setattr(
            agent.panel, "recall", lambda o, *more, recall=recall: asked.append(o.shape[:2].numel()) or recall(o, *more)
        )
        agent.learn(100)
        assert sum(asked) == 100


def test_teacher_value_rewards_are_those_of_the_states(critic_teacher):
    agent = TeacherStudent(
        POINT, critic_teacher, method="teacher_value_reward", config={**ROLL, "n_steps": 60, "allow_weak_teacher": True}
    )
    agent.learn(2 * 59)
    rollout = agent.rollout_buffer
    values = Labels.unpack(rollout.labels).value[0].numpy()
    done = rollout.dones[0].numpy().astype(bool)
    assert done[49].all()  # PointReach runs out of time after 50 steps, which is no end: its value counts
    np.testing.assert_allclose(rollout.next_values[0, :58][~done[:58]], values[1:59][~done[:58]], rtol=1e-5)
    after = agent.panel.answer(torch.zeros(1, 1, 4))  # some value, to know the scale
    assert np.isfinite(rollout.next_values[0, 49]).all()
    assert (rollout.next_values[0, 49] != 0).all()
    assert torch.isfinite(after).all()


def test_without_the_tasks_reward_the_rollout_has_none():
    with_it, without = (
        TeacherStudent(POINT, expert, method="on_policy_distill", config={**ROLL, "environment_reward": flag})
        for flag in (True, False)
    )
    for agent in (with_it, without):
        agent.learn(20)
    assert (with_it.rollout_buffer.rewards[:, :10] != 0).all()
    assert (without.rollout_buffer.rewards[:, :10] == 0).all()


def lean(observation):
    """Some controller of InvertedPendulum, whose actions are within 3 and not within 1."""
    return np.clip(10 * observation[1:2], -3, 3)


def rolled(method, **changes):
    """The recipe of two students with a full rollout of two environments each."""
    config = {**ROLL, "n_steps": 12, "normalize_observation": False, "normalize_reward": False, "log_std_init": 1.0}
    config |= {"allow_weak_teacher": True, "environment_reward": False, **changes}
    agent = TeacherStudent("InvertedPendulum-v5", lean, method=method, seeds=(0, 3), config=config)
    agent.get_env()
    for _ in range(12):
        agent.recipe.collect()
    return agent.recipe


@pytest.mark.parametrize("method", ["entropy_regularised", "n_distill", "expected_entropy_regularised"])
def test_what_a_teacher_pays_by_hand(method):
    """Czarnecki et al. 2019, table 1: log T(a), -Hx(T, S) at s', and log T(a') at s', 0 where there is no s'."""
    recipe = rolled(method, teacher_reward_coef=0.5)
    rollout, learner = recipe.rollout, recipe.learner
    assert 0 < rollout.dones.mean() < 1
    last = torch.from_numpy(recipe.collector.observations).view(2, 1, 2, -1)
    own = learner.outputs(learner.actor, torch.cat((rollout.observations, last), 1).flatten(1, 2))
    answers = Labels.unpack(torch.cat((rollout.labels, recipe.tutor.answers().unsqueeze(1)), 1).flatten(1, 2)).policy
    student, teacher = (torch.distributions.Normal(x.mean, x.std) for x in (own, answers))

    def cross_entropy(p, q):
        return (torch.distributions.kl_divergence(p, q) + p.entropy()).view(2, 13, 2)

    actions = torch.cat((rollout.actions / 3, torch.zeros(2, 1, 2, 1)), 1).flatten(1, 2)  # in [-1, 1]
    likely = teacher.log_prob(actions).view(2, 13, 2)
    after = {
        "n_distill": -cross_entropy(teacher, student),
        "expected_entropy_regularised": torch.cat((likely[:, :-1], -cross_entropy(student, teacher)[:, -1:]), 1),
    }
    expected = after[method][:, 1:] * (1 - rollout.dones) if method in after else likely[:, :-1]
    torch.testing.assert_close(recipe.rewards(recipe.distributions()), 0.5 * expected, rtol=1e-4, atol=1e-4)


def test_what_a_teacher_pays_is_scaled_where_rewards_are():
    plain, scaled = (rolled("entropy_regularised", normalize_reward=flag, gamma=0.8) for flag in (False, True))
    unscaled = plain.teacher_rewards(plain.distributions())
    expected = copy.deepcopy(scaled.teaching).scale_rewards(unscaled, plain.rollout.dones, 0.8)
    torch.testing.assert_close(scaled.teacher_rewards(scaled.distributions()), expected)
    assert not torch.allclose(expected, unscaled)


def test_after_a_failure_nothing_is_worth_anything_to_the_teacher(monkeypatch):
    """Only a time limit asks it for the value of the last state."""
    config = {**ROLL, "n_steps": 12, "log_std_init": 1.0, "allow_weak_teacher": True}
    agent = TeacherStudent("InvertedPendulum-v5", lean, method="entropy_regularised", config=config)
    agent.get_env()
    recipe, answers = agent.recipe, agent.recipe.tutor.answers
    recipe.method = TEACHER_METHODS["teacher_value_reward"]  # whose teacher says 5 everywhere, and 7 at the end
    monkeypatch.setattr(
        recipe.tutor, "answers", lambda: torch.cat((answers()[..., :-1], 5 + 0 * answers()[..., -1:]), -1)
    )
    monkeypatch.setattr(recipe.tutor, "value_at_end", lambda info, env: 7.0)
    for _ in range(12):
        recipe.collect()
    failed = recipe.rollout.dones.bool()
    assert failed.any() and not failed.all()
    assert torch.equal(recipe.rollout.next_values, torch.where(failed, 0.0, 5.0))


def test_a_teachers_value_is_paid_in_units_of_the_value_network(critic_teacher):
    config = {**ROLL, "allow_weak_teacher": True, "environment_reward": False, "gamma": 0.9}
    agent = TeacherStudent(POINT, critic_teacher, method="teacher_value_reward", config=config)
    agent.get_env()
    for _ in range(25):
        agent.recipe.collect()
    agent.learner.return_stats.var.fill_(9.0)  # one of its units is worth 3 of the task's
    rollout, recipe = agent.rollout_buffer, agent.recipe
    values = Labels.unpack(rollout.labels).value
    paid = recipe.rewards(recipe.distributions())
    torch.testing.assert_close(paid, (0.9 * rollout.next_values - values) / 3, rtol=1e-4, atol=1e-6)
    advantages = recipe.estimate()[0].advantages.view(paid.shape)
    learner, last = recipe.learner, rollout.dones[:, -1]
    after = learner.normalise(torch.from_numpy(recipe.collector.observations).view(1, -1, 4))
    errors = paid[:, -1] + 0.9 * (1 - last) * learner.values(after) - learner.values(rollout.inputs[:, -1])
    torch.testing.assert_close(advantages[:, -1], errors, rtol=1e-4, atol=1e-5)  # so it learns from them


def test_where_the_teacher_acts_its_gaussian_is_sampled_in_the_tasks_units():
    recipe = rolled("teacher_distill", teacher_std=0.2)
    states = [generator.bit_generator.state for generator in recipe.exploration]
    acted = recipe.act(recipe.rollout.inputs[:, 0])
    for generator, state in zip(recipe.exploration, states, strict=True):
        generator.bit_generator.state = state
    noise = torch.from_numpy(np.stack([g.standard_normal((2, 1), np.float32) for g in recipe.exploration]))
    said = Labels.unpack(recipe.tutor.answers()).policy.actions
    torch.testing.assert_close(acted, 3 * (said + 0.2 * noise))


def test_beside_ppo_the_teachers_weight_is_adapted_by_the_distance_of_the_update():
    config = {**ROLL, "distill_schedule": "held_kl", "kl_target": 0.3}
    agent = TeacherStudent(POINT, expert, method="kickstarting", seeds=(0, 3), config=config).learn(50)
    expected = dual_ascent(torch.zeros(2), agent.recipe.info["distill/held"], 0.3)
    torch.testing.assert_close(agent.recipe.teaching.log_coefficient, expected)
    assert expected.all()


@pytest.mark.parametrize(("policy_delay", "after"), [(2, [100, 200, 300]), (3, [102, 201, 300])])
def test_off_policy_the_teachers_weight_is_adapted_after_every_hundred_updates(policy_delay, after, monkeypatch):
    config = {**REPLAY, "distill_schedule": "held_kl", "distill_coef": 2.0, "policy_delay": policy_delay}
    agent = TeacherStudent(POINT, expert, method="kickstarting", backbone="td3", config=config)
    adapted, adapt = [], agent.recipe.teaching.adapt
    monkeypatch.setattr(
        agent.recipe.teaching, "adapt", lambda held: adapted.append(agent.recipe.n_updates) or adapt(held)
    )
    agent.learn(20 + 305)
    assert agent.recipe.n_updates == 305 and adapted == after  # whose actors move then
    teaching = agent.recipe.teaching
    assert teaching.log_coefficient.all()
    torch.testing.assert_close(teaching.lambdas, 2.0 * teaching.log_coefficient.exp())


def test_off_policy_the_teachers_weight_is_that_of_its_schedule_from_the_first_update_on():
    config = {**REPLAY, "distill_schedule": "linear", "distill_coef": 2.0}
    recipe = TeacherStudent(POINT, expert, method="kickstarting", backbone="td3", config=config).learn(40).recipe
    recipe.n_updates = 0
    weights = [float(recipe.step(i / 200, False)["distill/coefficient"][0]) for i in range(200)]
    assert weights == [2.0] * 100 + [1.0] * 100


def test_losses_beside_rl_off_policy_are_the_distances_times_their_coefficients(critic_teacher, monkeypatch):
    config = {**REPLAY, "allow_weak_teacher": True, "distill_value_coef": 3.0}
    agent = TeacherStudent(POINT, critic_teacher, method="kickstarting", backbone="td3", seeds=(0, 3), config=config)
    agent.learn(40)
    recipe, learner, seen = agent.recipe, agent.learner, []
    monkeypatch.setattr(
        learner, "update", lambda *a, values: seen.extend((a[4](learner.actor), values(learner.critic)))
    )
    recipe.teaching.lambdas.copy_(torch.tensor([0.5, 2.0]))
    states, answers = recipe.dataset.sample(8, recipe.sampling)
    recipe.teach(None, None, states, answers, True, True)
    labels = Labels.unpack(answers)
    apart = (learner.policy(learner.actor, states) - labels.policy.actions).square().sum(-1).mean(1)
    torch.testing.assert_close(seen[0][0], torch.tensor([0.5, 2.0]) * apart)
    errors = learner.q_values(learner.critic, states, labels.policy.actions) - labels.value.unsqueeze(1)
    torch.testing.assert_close(seen[1][0], 3.0 * errors.square().sum(1).mean(1))


@pytest.mark.parametrize("backbone", ["ppo", "td3"])
def test_the_critic_of_students_without_rl_is_no_value(tmp_path, critic_teacher, backbone):
    student = TeacherStudent(POINT, expert, backbone=backbone, config=COPY)
    student.save(tmp_path / "agent.safetensors")
    for source in (tmp_path / "agent.safetensors", student):
        teacher = Teacher.load(source, POINT)
        assert teacher.value(torch.zeros(2, 4)) is None
        with pytest.raises(PolicyKDError, match="value_gated needs a teacher with a value"):
            TeacherStudent(POINT, teacher, method="value_gated", config=ROLL)
    valued = TeacherStudent(POINT, critic_teacher, config={**COPY, "distill_value_coef": 1.0})
    assert Teacher.load(valued, POINT).policy.value is not None


def test_a_critic_is_a_value_once_something_has_trained_it(tmp_path):
    peers = make_peers("share_replay", "sac", config={"rebirth_freq": 10**5}).learn(200)
    assert Teacher.load(peers, POINT).policy.value is not None
    peers.save(tmp_path / "peers.safetensors")
    assert Teacher.load(tmp_path / "peers.safetensors", POINT).policy.value is not None
    shipped = peers.ship(gradient_steps=2)
    shipped.save(tmp_path / "shipped.safetensors")
    for source in (shipped, tmp_path / "shipped.safetensors"):
        assert Teacher.load(source, POINT).policy.value is None
    normed = make_peers("share_replay", "td3", config={"layer_norm": True})  # without a twin in SB3
    observation = np.zeros((1, 4), np.float32)
    np.testing.assert_allclose(
        Teacher.load(normed, POINT).predict(observation)[0], normed.predict(observation)[0], atol=1e-6
    )


def test_several_teachers():
    left, right = (lambda o, side=side: np.array([side, side / 2], np.float32) for side in (-1.0, 1.0))
    config = {**COPY, "allow_weak_teacher": True}
    observations = torch.tensor([[[0.0, 0, 0, 0], [1.0, 0, 0, 0]]])

    def actions(**changes):
        task_of = changes.pop("task_of", None)
        agent = TeacherStudent(POINT, [left, right], config={**config, **changes}, task_of=task_of)
        return Labels.unpack(agent.panel.answer(observations)).policy.actions[0].tolist()

    assert actions() == [[0.0, 0.0], [0.0, 0.0]]
    chosen = actions(several_teachers="by_task", task_of=lambda o: o[:, 0] > 0.5)
    assert chosen == [[-1.0, -0.5], [1.0, 0.5]]
    with pytest.raises(PolicyKDError, match="by_task needs task_of"):
        actions(several_teachers="by_task")
    with pytest.raises(PolicyKDError, match="teachers with a value"):
        actions(several_teachers="best_value")
    with pytest.raises(PolicyKDError, match='task_of: has no effect with several_teachers="mean"'):
        actions(task_of=lambda o: o[:, 0] > 0.5)
    for told, message in (
        (lambda o: o[:, 0].long() - 1, "numbered from 0 to 1, got -1"),
        (lambda o: o[:, 0] + 1, "numbered from 0 to 1, got 2.0"),
        (lambda o: o[:, 0] / 2, "numbered from 0 to 1, got 0.5"),
        (lambda o: o[:, :1].long(), r"must return a tensor \(2,\) for 2 observations, got \(2, 1\)"),
        (lambda o: 0, "for 2 observations, got int"),
    ):
        with pytest.raises(PolicyKDError, match=f"task_of: .*{message}"):
            actions(several_teachers="by_task", task_of=told)


@pytest.mark.parametrize("method", ["dagger", "kickstarting"])
def test_every_environment_has_its_teacher(method):
    far = [lambda o, side=side: np.array([side, side / 2], np.float32) for side in (-1.0, 0.0, 1.0)]
    config = {**(COPY if method == "dagger" else ROLL), "several_teachers": "by_environment", "n_envs": 4}
    config |= {"teacher_episodes": 3, "allow_weak_teacher": True}
    agent = TeacherStudent(POINT, far, method=method, seeds=(0, 1), config=config)
    score = agent.panel.score(agent.full_factory, 4, 0)
    agent.get_env()
    labels = Labels.unpack(agent.tutor.answers()).policy.actions
    assert labels[..., 0].tolist() == [[-1.0, 0.0, 1.0, -1.0]] * 2 and torch.equal(labels[..., 1], labels[..., 0] / 2)
    if method == "dagger":
        agent.learn(40)
        kept = Labels.unpack(agent.dataset.storage[:, :40, 4:]).policy.actions[..., 0]
        assert kept.tolist() == [[-1.0, 0.0, 1.0, -1.0] * 10] * 2
    alone = [Teacher.load(one, POINT).score(POINT, 4, 0).returns for one in far]
    np.testing.assert_allclose(score.returns, [alone[e % 3][e] for e in range(4)], atol=1e-3)
    with pytest.raises(PolicyKDError, match="by_environment needs environments, but these states have none"):
        agent.panel.answer(torch.zeros(1, 2, 4))
    for few in ({"n_envs": 2}, {"teacher_episodes": 2}):
        with pytest.raises(PolicyKDError, match="must be at least 3, one for each of 3 teachers by_environment"):
            TeacherStudent(POINT, far, config={**config, **few})


def test_a_value_at_the_end_is_that_of_the_environments_teacher(critic_teacher, monkeypatch):
    other = Teacher(critic_teacher.policy, None, None, torch.device("cpu"))
    monkeypatch.setattr(critic_teacher, "value", lambda o: o[:, 0])
    monkeypatch.setattr(other, "value", lambda o: -o[:, 0])
    config = {**COPY, "several_teachers": "by_environment", "n_envs": 2}
    agent = TeacherStudent(POINT, [critic_teacher, other], seeds=(0, 1), config=config)
    last = {"terminal_observation": np.array([3.0, 0, 0, 0])}
    assert [agent.tutor.value_at_end(last, e) for e in range(4)] == [3.0, -3.0, 3.0, -3.0]
    with pytest.raises(PolicyKDError, match="by_environment needs environments"):
        agent.learn_from({"observations": np.zeros((3, 4))}, 1)


def test_the_best_value_decides_state_by_state(critic_teacher, monkeypatch):
    other = Teacher(critic_teacher.policy, None, None, torch.device("cpu"))
    monkeypatch.setattr(critic_teacher, "value", lambda o: o[:, 0])
    monkeypatch.setattr(other, "value", lambda o: -o[:, 0])
    monkeypatch.setattr(other, "distribution", lambda o: (torch.zeros(len(o), 2), torch.ones(len(o), 2)))
    config = {**COPY, "several_teachers": "best_value"}
    agent = TeacherStudent(POINT, [critic_teacher, other], config=config)
    observations = torch.tensor([[[1.0, 0, 0, 0], [-1.0, 0, 0, 0]]])
    labels = Labels.unpack(agent.panel.answer(observations))
    assert torch.equal(labels.value, torch.ones(1, 2))
    torch.testing.assert_close(labels.policy.actions[0, 0], critic_teacher.actions(observations[0, :1])[0])
    assert torch.equal(labels.policy.actions[0, 1], torch.zeros(2))


def test_the_student_sees_a_part_and_the_teacher_all():
    config = {**COPY, "student_observations": (2, 3), "round_steps": 100, "round_updates": 100}
    agent = TeacherStudent(POINT, expert, config=config).learn(1000)
    assert agent.observation_space.shape == (2,)
    assert agent.learner.actor_network.sizes[0] == 2
    assert agent.predict(np.zeros((5, 2), np.float32))[0].shape == (5, 2)
    assert agent.view(np.arange(8.0).reshape(2, 4)).tolist() == [[2.0, 3.0], [6.0, 7.0]]
    # What it does not see (its position) the expert does not use: the student loses nothing.
    assert agent.evaluate(20, seed=1).returns.mean() > agent.score_teacher().mean - 8
    with pytest.raises(PolicyKDError, match="student_observations: columns must lie between 0 and 3"):
        TeacherStudent(POINT, expert, config={**config, "student_observations": (7,)})


@pytest.mark.parametrize(("backbone", "kind"), [("ppo", PPO), ("td3", TD3), ("sac", SAC)])
def test_a_student_becomes_an_sb3_model_and_a_file(tmp_path, backbone, kind):
    agent = TeacherStudent(POINT, expert, backbone=backbone, seeds=(0, 4), config=COPY).learn(100)
    observations = np.random.default_rng(0).normal(size=(6, 4)).astype(np.float32)
    model = agent.to_sb3(1)
    assert isinstance(model, kind)
    normalizer = model.get_vec_normalize_env()
    seen = observations if normalizer is None else normalizer.normalize_obs(observations)
    expected = agent.predict(observations, learner=1)[0]
    np.testing.assert_allclose(model.predict(seen, deterministic=True)[0], expected, atol=1e-5)
    agent.save(tmp_path / "student")
    loaded = TeacherStudent.load(tmp_path / "student.safetensors")
    np.testing.assert_array_equal(loaded.predict(observations, learner=1)[0], expected)
    assert loaded.num_timesteps == 100
    assert isinstance(load_agent(tmp_path / "student.safetensors"), TeacherStudent)
    with pytest.raises(PolicyKDError, match="pass the teacher"):
        loaded.learn(40)


def test_values_are_distilled_where_asked(critic_teacher):
    for backbone in ("ppo", "td3"):
        changes = {"distill_value_coef": 1.0, "allow_weak_teacher": True, "round_updates": 100}
        agent = TeacherStudent(POINT, critic_teacher, backbone=backbone, config={**COPY, **changes})
        agent.learn(40)
        first = float(agent.recipe.info["distill/value_loss"])
        agent.learn(400)
        assert float(agent.recipe.info["distill/value_loss"]) < first / 2


@pytest.mark.parametrize(("backbone", "divergence"), [("td3", "mse"), ("ppo", "mse"), ("ppo", "nll"), ("sac", "nll")])
def test_losses_of_actions_need_no_deviation_of_the_teacher(backbone, divergence):
    agent = TeacherStudent(POINT, expert, backbone=backbone, config={**COPY, "divergence": divergence}).learn(40)
    assert agent.recipe.info["distill/loss"].isfinite().all()


@pytest.mark.parametrize("backbone", ["ddpg", "td3", "sac"])
def test_values_are_distilled_beside_rl_off_policy_too(critic_teacher, backbone):
    def critics(coef):
        changes = {"distill_value_coef": coef, "allow_weak_teacher": True}
        agent = TeacherStudent(
            POINT, critic_teacher, method="kickstarting", backbone=backbone, config={**REPLAY, **changes}
        ).learn(60)
        return agent.learner.critic, agent.recipe.info

    (alone, _), (taught, info) = critics(0.0), critics(1.0)
    assert not torch.equal(alone, taught) and info["distill/value_loss"].isfinite().all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "dpd"}, "dpd is for peers: use DualStudent"),
        ({"method": "dager"}, "'dager' is unknown; nearest: dagger"),
        ({"method": "ppd", "backbone": "td3"}, "ppd is on-policy: use ppo, not td3"),
        ({"method": "value_gated"}, "needs a teacher with a value"),
        ({"method": "entropy_regularised"}, "standard deviation: set teacher_std"),
        ({"config": {"divergence": "gaussian_kl_forward"}}, "has no standard deviation: set teacher_std"),
        ({"config": {"divergence": "nll"}, "backbone": "td3"}, "nll compares Gaussians, but the student is determ"),
        ({"config": {"distill_value_coef": 1.0}}, "has no value to distil"),
        ({"config": {"temperature": 0.0}}, "temperature=0.0 must be positive"),
        ({"config": {"scale_free": False}}, "scale_free=False applies to peers"),
        ({"backbone": "sac", "config": {"vary": {"learning_rate": (1e-3, 3e-4)}}}, "vary=.* applies to peers"),
        (
            {"config": {"distill_schedule": "held_kl"}},
            "held_kl weighs the teacher against RL, but dagger has no RL loss",
        ),
        ({"method": "fine_tune"}, "then call fine_tune"),
        ({"teacher": []}, "the list of teachers is empty"),
    ],
)
def test_what_cannot_work_is_refused_in_one_line(options, message):
    teacher = options.pop("teacher", expert)
    with pytest.raises(PolicyKDError, match=message) as error:
        TeacherStudent(POINT, teacher, **options)
    assert "\n" not in str(error.value)


def test_a_teacher_of_another_task_is_refused_with_both_shapes(critic_teacher):
    with pytest.raises(PolicyKDError, match="reads 4 observations and gives 2 actions, Pendulum-v1 has 3 and 1"):
        TeacherStudent("Pendulum-v1", critic_teacher)


def test_peers_refuse_the_methods_of_teachers():
    with pytest.raises(PolicyKDError, match="dagger needs a teacher: use TeacherStudent"):
        DualStudent(POINT, method="dagger")
    assert set(TEACHER_METHODS) < set(METHODS)


def test_a_weak_teacher_is_refused_before_anything_is_learnt():
    def idle(observation):
        return np.zeros(2, np.float32)

    agent = TeacherStudent("Pendulum-v1", lambda observation: np.zeros(1, np.float32), config=COPY)
    with pytest.raises(
        PolicyKDError, match=r"(too weak to teach|that it is better); to use it anyway, set allow_weak_teacher"
    ):
        agent.learn(100)
    assert agent.num_timesteps == 0
    near = TeacherScore("t", POINT, np.array([-50.0, 1.0]), np.array([-80.0, -60.0]))
    few = TeacherStudent(POINT, idle, config=COPY)
    few.panel.score = lambda *asked: near
    with pytest.raises(PolicyKDError, match=r"2 episodes \(teacher_episodes\) do not show that it is"):
        few.learn(100)
    allowed = TeacherStudent(POINT, idle, config={**COPY, "allow_weak_teacher": True, "n_envs": 1}).learn(50)
    assert allowed.num_timesteps == 50


@pytest.mark.filterwarnings("error::RuntimeWarning")
def test_a_teacher_that_is_worth_nothing_has_no_share(tmp_path):
    config = {**COPY, "allow_weak_teacher": True}
    agent = TeacherStudent(POINT, lambda observation: np.zeros(2), config=config, run_dir=tmp_path / "run")
    agent.tutor.score = TeacherScore("t", POINT, np.zeros(2), np.zeros(2))
    agent.learn(50)
    assert "eval/return_ratio" not in (tmp_path / "run" / "progress.csv").read_text(encoding="utf-8")


@pytest.mark.parametrize("asked_before", [True, False])  # as policykd distill asks
def test_the_score_of_the_teacher_is_logged_once(asked_before, tmp_path):
    agent = TeacherStudent(POINT, expert, config=COPY, run_dir=tmp_path / "run")
    if asked_before:
        agent.score_teacher()
    agent = TeacherStudent.load(agent.learn(50).folder.path, teacher=expert).learn(50)
    text = (tmp_path / "run" / "progress.csv").read_text(encoding="utf-8").splitlines()
    row = dict(zip(text[0].split(","), text[1].split(","), strict=True))
    assert float(row["teacher/mean_reward"]) == pytest.approx(agent.score_teacher().mean)
    assert float(row["teacher/random_reward"]) == pytest.approx(agent.score_teacher().random_mean)
    column = text[0].split(",").index("teacher/mean_reward")
    assert not any(line.split(",")[column] for line in text[2:])
    last, evaluation = dict(zip(text[0].split(","), text[-1].split(","), strict=True)), agent.evaluations[-1].returns[0]
    assert float(last["eval/return_ratio"]) == pytest.approx(agent.score_teacher().ratio(evaluation.mean()))
    assert float(last["eval/min_reward"]) == pytest.approx(evaluation.min())


def test_fine_tuning_freezes_the_actor_then_its_deviation_and_lets_the_anchor_go(monkeypatch):
    config = {**COPY, **{k: ROLL[k] for k in ("n_steps", "n_envs", "n_epochs", "batch_size")}}
    agent = TeacherStudent(POINT, expert, config=config).learn(400)
    before, std = agent.learner.actor.clone(), agent.teaching.fine_tune_std
    before[:, -2:] = np.log(std)
    seen = []
    step = FineTune.step

    def spy(update, *arguments):
        step(update, *arguments)
        sizes = agent.learner.sizes[:2]
        actor, log_std = agent.learner.actor.split(sizes, dim=1)
        moved, spread = (bool((x != y).any()) for x, y in zip((actor, log_std), before.split(sizes, 1), strict=True))
        seen.append((moved, spread, float(update.teaching.lambdas[0])))

    monkeypatch.setattr(FineTune, "step", spy)
    critic = agent.learner.critic.clone()
    agent.fine_tune(400, config={"critic_steps": 100, "fixed_std_steps": 200, "fine_tune_std": std})
    assert [moved for moved, _, _ in seen] == [False, False, *[True] * 6]
    assert [changed for _, changed, _ in seen] == [*[False] * 4, *[True] * 4]
    assert [weight for _, _, weight in seen] == pytest.approx([1 - (k + 1) / 8 for k in range(8)])
    assert (agent.learner.critic != critic).any()
    assert agent.fine_tuned_steps == 400


def test_fine_tuning_begins_with_a_small_deviation_old_statistics_and_fresh_moments(monkeypatch):
    config = {**COPY, **{k: ROLL[k] for k in ("n_steps", "n_envs", "n_epochs", "batch_size")}}
    agent = TeacherStudent("InvertedPendulum-v5", lean, config={**config, "allow_weak_teacher": True}).learn(80)
    learner, mean = agent.learner, agent.learner.observation_stats.mean.clone()
    seen, step = [], FineTune.step
    monkeypatch.setattr(FineTune, "step", lambda *a: step(*a) or seen.append(learner.log_std.exp().item()))
    tuned = {"critic_steps": 100, "fixed_std_steps": 50, "fine_tune_std": 0.05}
    agent.fine_tune(200, config=tuned)
    assert seen[:2] == pytest.approx([0.15, 0.15])  # of bounds of 3; and it does not move before the actor does
    assert all(std != pytest.approx(0.15, rel=1e-6) for std in seen[2:]) and len(seen) == 4
    assert torch.equal(learner.observation_stats.mean, mean)
    assert learner.adam.steps == 2 * 4  # Adam has counted none of the steps in which the actor was frozen
    kicked = TeacherStudent(POINT, expert, method="kickstarting", config=ROLL).learn(50)
    assert kicked.learner.adam.steps > 0
    kicked.fine_tune(0)
    assert kicked.learner.adam.steps == 0 and not kicked.learner.adam.exp_avg.any()


@pytest.mark.parametrize("kind", ["sb3", "onnx", "torchscript"])
def test_a_distilled_student_keeps_its_normaliser_in_every_format(tmp_path, kind):
    if kind == "onnx":
        pytest.importorskip("onnxruntime")
        pytest.importorskip("onnx")
    agent = TeacherStudent(POINT, expert, config=COPY).learn(200)
    assert agent.learner.observation_stats.mean.abs().max() > 0.01  # a normaliser that does something
    agent.save(tmp_path / "student")
    words = ["--format", kind, "--out", str(tmp_path / "out")]
    main(["export", str(tmp_path / "student.safetensors"), *words])
    (file,) = (path for path in (tmp_path / "out").rglob("*") if path.suffix in (".zip", ".onnx", ".pt"))
    again = Teacher.load(file, POINT, trust=kind == "torchscript")
    observations = np.random.default_rng(0).normal(size=(20, 4)).astype(np.float32)
    np.testing.assert_allclose(again.predict(observations)[0], agent.predict(observations)[0], atol=1e-5)


def test_whom_the_task_does_not_pay_the_scale_of_its_rewards_is_known_to_all_the_same():
    """A value network's units are that scale, and so are the teacher's values that it learns."""
    unpaid, paid = (
        TeacherStudent(POINT, expert, method="n_distill", config={**ROLL, "environment_reward": pays}).learn(20)
        for pays in (False, True)
    )
    assert not unpaid.rollout_buffer.rewards.any() and paid.rollout_buffer.rewards[:, :10].all()
    assert torch.equal(unpaid.learner.return_stats.std, paid.learner.return_stats.std)
    assert (unpaid.learner.return_stats.std > 0.1).all()


@pytest.mark.parametrize(
    ("calls", "changes", "warns"),
    [
        ([39], {}, True),
        ([40], {}, True),  # the round is over where the learning rate has fallen to 0
        ([40, 40, 40], {}, True),
        ([80], {}, False),
        ([40], {"distill_schedule": "constant"}, False),
        ([39], {"distill_schedule": "constant", "n_envs": 4}, False),  # 40 steps are made
        ([0], {}, False),
    ],
)
def test_calls_too_short_to_learn_anything_say_so(calls, changes, warns, caplog):
    agent = TeacherStudent(POINT, expert, config={**COPY, "n_envs": 1, **changes})
    before = agent.learner.actor.clone()
    for steps in calls:
        agent.learn(steps)
    said = [record.getMessage() for record in caplog.records if "train nothing" in record.getMessage()]
    assert len(said) == warns * len(calls)
    assert torch.equal(agent.learner.actor, before) == (warns or calls == [0])
