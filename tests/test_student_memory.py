"""Students that remember: a history of observations, the same as by hand."""

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.wrappers import FlattenObservation, FrameStackObservation
from policykd_envs.wrappers import StackObservation
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import DummyVecEnv
from test_teacher_student import COPY, REPLAY, ROLL, expert
from tiny import POINT

from policykd import TeacherStudent
from policykd.core.errors import PolicyKDError
from policykd.teachers import Teacher

FRAMES = 3


def stacked():
    return FlattenObservation(FrameStackObservation(gym.make(POINT), FRAMES))


@pytest.mark.parametrize(
    ("method", "backbone", "config"),
    [("dagger", "ppo", COPY), ("kickstarting", "ppo", ROLL), ("kickstarting", "td3", REPLAY)],
)
def test_a_history_learns_what_a_frame_stack_by_hand_learns(method, backbone, config):
    config = {**config, "teacher_std": 0.2}
    short = {**config, "history": FRAMES, "student_observations": (2, 3)}
    agent = TeacherStudent(POINT, expert, method=method, backbone=backbone, seeds=(0, 3), config=short).learn(160)
    columns = tuple(4 * frame + column for frame in range(FRAMES) for column in (2, 3))
    by_hand = TeacherStudent(
        stacked,
        lambda observation: expert(observation[..., -4:]),
        method=method,
        backbone=backbone,
        seeds=(0, 3),
        config={**config, "student_observations": columns},
    ).learn(160)
    assert torch.equal(agent.learner.actor, by_hand.learner.actor)
    np.testing.assert_array_equal(agent.evaluate(2, seed=1).returns, by_hand.evaluate(2, seed=1).returns)


def test_the_wrapper_is_gymnasiums_two():
    ours, theirs = StackObservation(gym.make(POINT), FRAMES), stacked()
    assert ours.observation_space == theirs.observation_space
    for seed in (1, 2):
        np.testing.assert_array_equal(ours.reset(seed=seed)[0], theirs.reset(seed=seed)[0])
        for action in np.random.default_rng(0).uniform(-1, 1, (5, 2)):
            np.testing.assert_array_equal(ours.step(action)[0], theirs.step(action)[0])


@pytest.fixture(scope="module")
def student():
    config = {**COPY, "history": FRAMES, "student_observations": (2, 3)}
    return TeacherStudent(POINT, expert, seeds=(0, 3), config=config).learn(200)


def test_predict_remembers_an_episode_and_forgets_it(student):
    plain, seen = gym.make(POINT), student.factory()
    state, start = None, np.ones(1, bool)
    for seed in (5, 6):
        observation, inputs = plain.reset(seed=seed)[0], seen.reset(seed=seed)[0]
        start[:] = True
        for _ in range(5):
            action, state = student.predict(observation[None], state, start, learner=1)
            np.testing.assert_array_equal(action, student.predict(inputs[None], learner=1)[0])
            observation, inputs, start = plain.step(action[0])[0], seen.step(action[0])[0], np.zeros(1, bool)
    with pytest.raises(PolicyKDError, match="the state has shape"):
        student.predict(np.zeros((3, 4), np.float32), state)


def test_sb3_evaluates_it_on_the_plain_task(student):
    def task():
        env = gym.make(POINT)
        env.reset(seed=9)
        return env

    plain, seen = DummyVecEnv([task, task]), DummyVecEnv([lambda: student.view.wrap(task())] * 2)
    returns = [evaluate_policy(student, envs, 4, return_episode_rewards=True, warn=False)[0] for envs in (plain, seen)]
    assert returns[0] == returns[1]


def test_it_can_teach_in_its_turn(student, tmp_path):
    student.save(tmp_path / "student")
    live, saved = Teacher.load(student, POINT), Teacher.load(tmp_path / "student.safetensors", POINT)
    assert live.remembers
    rows = np.random.default_rng(0).normal(size=(4, 2, 4)).astype(np.float32)
    states, start = [None] * 3, np.ones(2, bool)
    for row in rows:
        answers = []
        for i, policy in enumerate((student, live, saved)):
            action, states[i] = policy.predict(row, state=states[i], episode_start=start)
            answers.append(action)
        np.testing.assert_allclose(answers[1], answers[0], atol=1e-5)
        np.testing.assert_allclose(answers[2], answers[0], atol=1e-5)
        start = np.array([False, True])
