"""Experts as they come: with state, several, and only their good episodes."""

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.envs.classic_control.pendulum import PendulumEnv
from tiny import POINT

from policykd import PolicyKDError, Teacher, TeacherStudent
from policykd.benchmark import random_actions
from policykd.distillation.labels import Labels
from policykd.tasks import evaluate
from policykd.teachers.demonstrations import demonstrate


def towards(observation):
    return np.clip(5 * observation[2:], -1, 1)


def away(observation):
    return -towards(observation)


class Reaches(gym.Wrapper):
    """PointReach that says at every step whether the goal is near."""

    def step(self, action):
        observation, reward, terminated, truncated, info = self.env.step(action)
        return observation, reward, terminated, truncated, {**info, "is_success": info["distance"] < 0.2}


def reaches():
    return Reaches(gym.make(POINT))


class Planner:
    """Waits for three steps of each episode, then moves: its action is no function of the observation."""

    def __init__(self):
        self.step = 99

    def reset(self):
        self.step = 0

    def __call__(self, observation):
        self.step += 1
        return towards(observation) if self.step > 3 else np.zeros(2)


def test_a_planner_with_state_begins_each_episode_anew():
    planner = Planner()
    data = demonstrate(planner, POINT, 3)
    for episode in range(3):
        actions = data.actions[data.episodes == episode]
        assert (actions[:3] == 0).all() and (actions[3:6] != 0).any() and len(actions) == 50
    assert planner.step == 99  # the user's own is untouched


def test_experts_take_turns_and_only_good_episodes_are_kept():
    experts = [towards, away]
    everything = demonstrate(experts, reaches, 8, seed=1)
    assert everything.successes.tolist() == [True, False] * 4
    good = everything.keep("success")
    assert np.array_equal(good.returns, everything.returns[::2]) and good.successes.all()
    assert np.array_equal(np.unique(good.episodes), np.arange(4)) and len(good.actions) == 200
    assert np.allclose(good.actions, [towards(o) for o in good.observations], atol=1e-6)
    best = demonstrate(experts, reaches, 8, seed=1, keep=0.5)
    assert np.array_equal(np.sort(best.returns), np.sort(everything.returns)[4:])


class Breaks(gym.Wrapper):
    """Pays NaN with the last step of an episode."""

    def step(self, action):
        observation, reward, terminated, truncated, info = self.env.step(action)
        return observation, np.nan if truncated else reward, terminated, truncated, info


def test_a_last_reward_that_is_not_finite_is_no_return():
    with pytest.raises(PolicyKDError, match="returned a reward that is not finite at step 50 of an episode"):
        demonstrate(towards, lambda: Breaks(gym.make(POINT)), 1)


def writes(observation):
    """Acts as ``towards``, and hides the position in what it was given."""
    observation[..., :2] = 0
    return np.clip(5 * observation[..., 2:], -1, 1)


class Writes(torch.nn.Module):
    def forward(self, observations):
        observations[:, :2] = 0
        return (5 * observations[:, 2:]).clamp(-1, 1)


def hides(observations):
    observations[:, :2] = 0
    return observations


@pytest.mark.parametrize("teacher", [writes, Writes()], ids=["function", "module"])
@pytest.mark.parametrize("seen", [None, hides], ids=["all", "a function that writes"])
def test_a_program_that_writes_into_an_observation_changes_nobody_elses(teacher, seen):
    config = {"round_steps": 100, "round_updates": 2, "net_arch": (8,), "n_eval_episodes": 0}
    student = TeacherStudent(POINT, teacher, config={**config, "student_observations": seen}, compile=False).learn(100)
    positions = student.dataset.storage[0, : student.dataset.size, :2]
    assert bool((positions == 0).all()) == (seen is hides)
    asked = np.ones((3, 4), np.float32)
    Teacher.load(teacher, POINT, observation_map=seen).actions(asked)
    student.predict(asked)
    assert (asked == 1).all()
    if teacher is writes:
        assert (demonstrate(teacher, POINT, 1).observations[:, :2] != 0).any()


def test_a_teacher_demonstrates_what_it_answers():
    teacher = Teacher.load(towards, POINT)
    data = demonstrate(teacher, POINT, 2)
    np.testing.assert_allclose(data.actions, teacher.actions(torch.from_numpy(data.observations)), atol=1e-6)
    assert data.successes is None


def test_the_only_value_of_an_action_that_cannot_move_is_0():
    space = gym.spaces.Box(np.array([-1, 0.5]), np.array([1, 0.5]), dtype=np.float64)

    def stuck():
        return gym.wrappers.TransformAction(gym.make(POINT), lambda action: action.astype(np.float32), space)

    data = demonstrate(lambda observation: np.array([0.25, 0.5]), stuck, 1)
    assert data.actions.dtype == np.float32 and (data.actions == [0.25, 0]).all()


def test_demonstrations_become_every_learners_data():
    data = demonstrate(towards, POINT, 2)
    student = TeacherStudent(POINT, towards, backbone="td3", seeds=(0, 1), config={"net_arch": (8,), "eval_freq": 0})
    data.fill(student, std=0.2)
    assert student.dataset.size == 100
    observations, packed = student.dataset.sample(50, [np.random.default_rng(s) for s in (0, 1)])
    labels = Labels.unpack(packed)
    expected = np.clip(5 * observations[..., 2:].numpy(), -1, 1)
    np.testing.assert_allclose(labels.policy.actions, expected, atol=1e-6)
    assert torch.allclose(labels.policy.std, torch.tensor(0.2)) and (labels.value == 0).all()


def test_demonstrations_are_before_tanh_where_students_are():
    data = demonstrate(towards, POINT, 1)
    student = TeacherStudent(POINT, towards, backbone="sac", config={"net_arch": (8,), "eval_freq": 0})
    data.fill(student)
    before_tanh = Labels.unpack(student.dataset.storage[0, :50, 4:]).policy.mean.tanh().numpy()
    np.testing.assert_allclose(before_tanh, np.clip(data.actions, -0.999, 0.999), atol=1e-5)


@pytest.mark.parametrize("part", [(2, 1, 0), (0, 1), lambda rows: rows[:, :1]])
def test_demonstrations_are_kept_as_students_see_them(part):
    data = demonstrate(towards, POINT, 2)
    config = {"net_arch": (8,), "eval_freq": 0, "student_observations": part}
    filled, learnt = (TeacherStudent(POINT, who, method="bc", config=config) for who in (towards, None))
    data.fill(filled)
    learnt.learn_from(data, 1)
    assert torch.equal(filled.dataset.storage[:, :100], learnt.dataset.storage[:, :100])
    assert torch.equal(filled.learner.observation_stats.mean, learnt.learner.observation_stats.mean)


def test_histories_of_demonstrations_begin_anew_with_each_episode():
    data = demonstrate(towards, POINT, 2)
    config = {"net_arch": (8,), "eval_freq": 0, "student_observations": (3, 0), "history": 3}
    student = TeacherStudent(POINT, towards, config=config)
    data.fill(student)
    expected = []
    for episode in range(2):
        look = student.view.for_episode()
        expected += [look(observation) for observation in data.observations[data.episodes == episode]]
    np.testing.assert_array_equal(student.dataset.storage[0, :100, :6], expected)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"method": "kickstarting"},
            "fill: a TeacherStudent cannot be filled with states: give a TeacherStudent of dagger",
        ),
        ({"config": {"gru": 4}}, "cannot be filled with states"),
        ({"config": {"dataset_size": 40}}, "dataset_size=40 keeps fewer than 50 states"),
        ({"env": "Pendulum-v1"}, "states have 4 observations, and Pendulum-v1 has 3"),
    ],
)
def test_what_cannot_take_demonstrations_says_so(changes, said):
    config = {"net_arch": (8,), "eval_freq": 0} | changes.pop("config", {})
    teacher = (lambda o: np.zeros(1)) if "env" in changes else towards
    student = TeacherStudent(**{"env": POINT, "teacher": teacher, "config": config} | changes)
    with pytest.raises(PolicyKDError, match=said):
        demonstrate(towards, POINT, 1).fill(student)


def test_a_data_set_alone_does_not_say_what_is_seen_of_demonstrations():
    student = TeacherStudent(POINT, towards, config={"net_arch": (8,), "eval_freq": 0})
    with pytest.raises(PolicyKDError, match="fill: a LabelledStates cannot be filled with states"):
        demonstrate(towards, POINT, 1).fill(student.dataset)


@pytest.mark.parametrize(
    ("ask", "said"),
    [
        (lambda: demonstrate(towards, POINT, 2, keep="success"), "keep: success needs a task whose info has"),
        (lambda: demonstrate(away, reaches, 2, keep="success"), "none of 2 episodes was a success"),
        (lambda: demonstrate(towards, POINT, 2, keep=1.5), "1.5 must be all, success, or a quantile"),
        (lambda: demonstrate(lambda o: np.full(2, np.nan), POINT, 1), "not 2 finite actions"),
        (lambda: demonstrate(lambda o: np.zeros(3), POINT, 1), "not 2 finite actions"),
        (lambda: demonstrate(towards, POINT, 1.5), "n_episodes=1.5 must be int"),
        (lambda: demonstrate([], POINT, 1), "need at least one expert and one episode, got 0 and 1"),
    ],
)
def test_what_cannot_be_demonstrated_is_one_line(ask, said):
    with pytest.raises(PolicyKDError, match=said):
        ask()


def test_numbers_of_episodes_are_whole_however_they_are_written():
    assert len(demonstrate(towards, POINT, 2e0, seed=np.int64(1)).returns) == 2
    teacher = Teacher.load(towards, POINT)
    assert len(teacher.score(POINT, 2e0, seed=np.float64(1)).returns) == 2
    with pytest.raises(PolicyKDError, match=r"n_episodes=1.5 must be int"):
        teacher.score(POINT, 1.5)


def test_what_a_teacher_is_loaded_from_demonstrates(tmp_path):
    config = {"net_arch": (8,), "student_observations": (2, 3), "history": 2, "eval_freq": 0}
    student = TeacherStudent(POINT, towards, config=config)
    student.save(tmp_path / "student.safetensors")
    wanted = demonstrate(Teacher.load(student, POINT), POINT, 1).actions
    for expert in (student, str(tmp_path / "student.safetensors")):
        np.testing.assert_allclose(demonstrate(expert, POINT, 1).actions, wanted, atol=1e-5)
    module = torch.nn.Linear(4, 2)
    np.testing.assert_allclose(
        demonstrate(module, POINT, 1).actions, demonstrate(Teacher.load(module, POINT), POINT, 1).actions
    )
    with pytest.raises(PolicyKDError, match="demonstrations: a int is not an expert"):
        demonstrate(3, POINT, 1)


def test_episodes_without_an_end_count_as_far_as_an_evaluation(monkeypatch, caplog):
    monkeypatch.setattr(evaluate, "EPISODE_LIMIT", 30)
    evaluate._warn_endless.cache_clear()
    data = demonstrate(lambda observation: np.zeros(1), PendulumEnv, 2)
    assert np.bincount(data.episodes).tolist() == [30, 30] and "did not end within 30 steps" in caplog.text
    monkeypatch.setattr(random_actions.policykd_envs, "make", lambda env_id: PendulumEnv())
    assert (random_actions.random_returns("Endless", 2, 0) > 30 * -17).all()
