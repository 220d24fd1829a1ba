"""Observations of several axes, which SB3's MlpPolicy flattens: everywhere the numbers of the same task in vectors."""

import gymnasium as gym
import numpy as np
import pytest
import sb3_contrib
import stable_baselines3
import torch
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from gymnasium.wrappers import FrameStackObservation, ReshapeObservation
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, VecFrameStack, VecNormalize
from tiny import POINT, TINY

from policykd import DualStudent, PolicyKDError, TeacherStudent
from policykd.core.networks import state_tensors
from policykd.export import Policy, read_sb3
from policykd.export.zoo import to_zip
from policykd.measure.doctor import diagnose
from policykd.memory.logged import LoggedStates
from policykd.teachers import Teacher
from policykd.teachers.demonstrations import demonstrate

SMALL = {"net_arch": (8,), "round_steps": 20, "round_updates": 2, "distill_batch_size": 8, "dataset_size": 500}
SMALL |= {"n_eval_episodes": 1, "teacher_episodes": 2, "allow_weak_teacher": True}
PPO = {"net_arch": (8,), "n_steps": 32, "batch_size": 16, "n_eval_episodes": 1, "normalize_observation": True}


def square():
    return ReshapeObservation(gym.make(POINT), (2, 2))


def row():
    return ReshapeObservation(gym.make(POINT), (1, 4))


def towards(observation):
    return np.clip(10 * observation[..., 2:], -1, 1)


@pytest.fixture(scope="module")
def teacher():
    """An agent of SB3 that learnt behind a VecNormalize on squares."""
    env = VecNormalize(DummyVecEnv([square]))
    return stable_baselines3.PPO("MlpPolicy", env, n_steps=64, policy_kwargs={"net_arch": [8]}, seed=0).learn(128)


@pytest.mark.parametrize(("backbone", "config"), [("td3", TINY), ("sac", TINY), ("ppo", PPO)])
def test_peers_learn_the_numbers_of_vectors_and_go_on(tmp_path, backbone, config):
    flat, own = (DualStudent(env, backbone=backbone, config=config).learn(128) for env in (POINT, square))
    for name, tensor in state_tensors(flat.learner).items():
        assert torch.equal(tensor, state_tensors(own.learner)[name]), name
    np.testing.assert_array_equal(flat.evaluate(2, seed=1).returns, own.evaluate(2, seed=1).returns)
    rows = np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32)
    expected = flat.predict(rows)[0]
    np.testing.assert_array_equal(own.predict(rows)[0], expected)
    np.testing.assert_array_equal(own.predict(rows.reshape(3, 2, 2))[0], expected)
    np.testing.assert_array_equal(own.predict(rows[0].reshape(2, 2))[0], expected[0])
    with pytest.raises(PolicyKDError, match="have 4 numbers, got an array of shape"):
        own.predict(np.zeros((3, 2)))
    own.save(tmp_path / "own", include_replay=True)
    again = DualStudent.load(tmp_path / "own", env=square).learn(64)
    for name, tensor in state_tensors(flat.learn(64).learner).items():
        assert torch.equal(tensor, state_tensors(again.learner)[name]), name
    teacher = Teacher.load(tmp_path / "own.safetensors", square)
    np.testing.assert_allclose(teacher.predict(rows.reshape(3, 2, 2))[0], expected, atol=1e-6)


def test_a_row_is_one_observation_and_not_several():
    agent = DualStudent(row, config=TINY)
    assert agent.predict(np.zeros((1, 4)))[0].shape == (2,)
    assert agent.predict(np.zeros((5, 1, 4)))[0].shape == (5, 2)


def test_a_stack_of_gymnasium_is_the_history_of_a_student():
    stacked = DualStudent(lambda: FrameStackObservation(gym.make(POINT), 3), backbone="ppo", config=PPO)
    assert stacked.observation_space.shape == (12,)
    assert stacked.learn(128).evaluate(1).returns.shape == (2, 1)


@pytest.mark.parametrize("mode", [AutoresetMode.SAME_STEP, AutoresetMode.NEXT_STEP])
def test_vectors_of_copies_give_the_numbers_of_single_environments(mode):
    config = {**PPO, "n_envs": 2}
    alone = DualStudent(square, backbone="ppo", config=config).learn(512)
    together = DualStudent(SyncVectorEnv([square] * 4, autoreset_mode=mode), backbone="ppo", config=config).learn(512)
    for name, tensor in state_tensors(alone.learner).items():
        assert torch.equal(tensor, state_tensors(together.learner)[name]), name


@pytest.mark.parametrize("backbone", ["ppo", "td3"])
def test_the_zip_reads_the_tasks_own_axes(tmp_path, backbone):
    agent = DualStudent(square, backbone=backbone, config=PPO if backbone == "ppo" else TINY).learn(128)
    to_zip(agent, 0, tmp_path / "agent.zip")
    model = getattr(stable_baselines3, backbone.upper()).load(tmp_path / "agent.zip")
    assert model.observation_space.shape == (2, 2)
    rows = np.random.default_rng(0).normal(size=(5, 2, 2)).astype(np.float32)
    seen = rows
    if backbone == "ppo":
        env = VecNormalize.load(tmp_path / "agent" / "vecnormalize.pkl", DummyVecEnv([square]))
        seen = env.normalize_obs(rows)
    np.testing.assert_allclose(model.predict(seen, deterministic=True)[0], agent.predict(rows, learner=0)[0], atol=1e-5)
    assert "Flatten" not in (tmp_path / "agent" / "config.yml").read_text(encoding="utf-8")
    loaded = Teacher.load(tmp_path / "agent.zip", square)
    np.testing.assert_allclose(loaded.predict(rows)[0], agent.predict(rows, learner=0)[0], atol=1e-5)
    policy = Policy(agent, 0)
    np.testing.assert_allclose(policy(rows[0]), agent.predict(rows[0], learner=0)[0], atol=1e-5)


@pytest.mark.parametrize("backbone", ["td3", "ppo"])
def test_a_model_of_sb3_on_such_a_task_becomes_a_row(backbone):
    config = TINY if backbone == "td3" else {**PPO, "normalize_observation": False}
    agent = DualStudent(square, backbone=backbone, config=config).learn(128)
    other = DualStudent(square, backbone=backbone, config=config, seeds=(7,)).learn(128)
    model, rows = agent.to_sb3(1), np.random.default_rng(0).normal(size=(5, 2, 2)).astype(np.float32)
    if backbone == "td3":
        read_sb3(other.learner, 0, model)
        expected = model.predict(rows, deterministic=True)[0]
        np.testing.assert_allclose(other.predict(rows, learner=0)[0], expected, atol=1e-6)
    model.set_env(DummyVecEnv([lambda: Monitor(square())]))
    assert model.learn(40, reset_num_timesteps=False).num_timesteps >= 40


def test_a_zip_of_float64_observations_loads_with_their_task(tmp_path):
    def doubles():
        space = spaces.Box(-np.inf, np.inf, (2, 2), np.float64)
        return gym.wrappers.TransformObservation(square(), lambda o: o.astype(np.float64), space)

    DualStudent(doubles, backbone="td3", config=TINY).to_sb3().save(tmp_path / "agent.zip")
    model = stable_baselines3.TD3.load(tmp_path / "agent.zip", env=doubles())
    assert model.observation_space == doubles().observation_space
    assert np.isfinite(evaluate_policy(model, Monitor(doubles()), 1)[0])


@pytest.mark.parametrize("how", ["zip", "live", "normaliser alone"])
def test_an_agent_of_sb3_teaches_and_answers_as_its_own_predict(tmp_path, teacher, how):
    normalizer = teacher.get_vec_normalize_env()
    rows = 2 * np.random.default_rng(0).normal(size=(20, 2, 2)).astype(np.float32)
    expected = teacher.predict(normalizer.normalize_obs(rows), deterministic=True)[0]
    teacher.save(tmp_path / "agent.zip")
    normalizer.save(tmp_path / "vecnormalize.pkl")
    source = teacher if how == "live" else tmp_path / "agent.zip"
    vecnormalize = normalizer if how == "normaliser alone" else None
    for env in (square, None):
        loaded = Teacher.load(source, env, vecnormalize=vecnormalize)
        np.testing.assert_allclose(loaded.predict(rows)[0], expected, atol=1e-5)
        np.testing.assert_allclose(loaded.predict(rows[0])[0], expected[0], atol=1e-5)
    students = TeacherStudent(square, source, config=SMALL).learn(60)
    flat = TeacherStudent(POINT, Teacher.load(source, square, vecnormalize=vecnormalize), config=SMALL).learn(60)
    for name, tensor in state_tensors(flat.learner).items():
        assert torch.equal(tensor, state_tensors(students.learner)[name]), name
    mean, _ = evaluate_policy(students, DummyVecEnv([square]), 3, warn=False)
    assert np.isfinite(mean)


@pytest.mark.parametrize("algorithm", ["SAC", "TD3", "DDPG", "A2C", "TQC", "RecurrentPPO"])
def test_agents_of_every_kind_read_several_axes(tmp_path, algorithm):
    library = sb3_contrib if hasattr(sb3_contrib, algorithm) else stable_baselines3
    recurrent = algorithm == "RecurrentPPO"
    kwargs = {"net_arch": [8], **({"lstm_hidden_size": 4} if recurrent else {})}
    model = getattr(library, algorithm)("MlpLstmPolicy" if recurrent else "MlpPolicy", square(), policy_kwargs=kwargs)
    model.save(tmp_path / "agent.zip")
    rows = np.random.default_rng(0).normal(size=(20, 2, 2)).astype(np.float32)
    expected = model.predict(rows, deterministic=True)[0]
    for source in (model, tmp_path / "agent.zip"):
        loaded = Teacher.load(source, square, vecnormalize=False)
        np.testing.assert_allclose(loaded.predict(rows, episode_start=np.ones(20))[0], expected, atol=1e-5)


def test_a_policy_with_code_of_its_own_is_asked_in_its_own_axes():
    class Own(stable_baselines3.common.policies.ActorCriticPolicy):
        def _predict(self, observation, deterministic=False):
            return observation[:, 1].clamp(-1, 1)

    live = stable_baselines3.PPO(Own, square())
    rows = np.random.default_rng(0).normal(size=(20, 2, 2)).astype(np.float32)
    loaded = Teacher.load(live, square, vecnormalize=False)
    np.testing.assert_allclose(loaded.predict(rows)[0], rows[:, 1].clip(-1, 1), atol=1e-6)


def test_students_see_columns_and_histories_of_several_axes():
    config = {**SMALL, "student_observations": (2, 3), "history": 2}
    flat, own = (TeacherStudent(env, towards, config=config).learn(60) for env in (POINT, square))
    for name, tensor in state_tensors(flat.learner).items():
        assert torch.equal(tensor, state_tensors(own.learner)[name]), name
    assert own.to_sb3().observation_space.shape == (4,)


def test_states_are_learnt_from_and_a_distillation_is_diagnosed():
    shown = demonstrate(towards, square, 3)
    assert shown.observations.shape[1:] == (4,)
    boxes = {"observations": shown.observations.reshape(-1, 2, 2), "actions": shown.actions}
    flat = TeacherStudent(POINT, None, config=SMALL).learn_from({**boxes, "observations": shown.observations}, 20)
    own = TeacherStudent(square, None, config=SMALL).learn_from(boxes, 20)
    assert torch.equal(flat.learner.actor, own.learner.actor)
    model = stable_baselines3.SAC("MlpPolicy", square(), learning_starts=1000).learn(30)
    assert LoggedStates.read(model).observations.shape == (30, 4)
    apart = [str(diagnose(towards, env, n_episodes=4, updates=0)).splitlines()[-1] for env in (POINT, square)]
    assert apart[0] == apart[1]


class Seen(gym.Env):
    """Any observations."""

    action_space = spaces.Box(-1, 1, (2,))

    def __init__(self, space, given=None):
        self.observation_space, self.given = space, given

    def reset(self, *, seed=None, options=None):
        return self.observation_space.sample() if self.given is None else self.given, {}

    def step(self, action):
        return *self.reset(), 0.0, False, True, {}


@pytest.mark.parametrize("space", [spaces.Box(0, 255, (8, 8, 3), np.uint8), spaces.Box(-1, 1, ()), spaces.Discrete(3)])
def test_images_scalars_and_choices_stay_refused(space):
    with pytest.raises(PolicyKDError, match=r"wrap it in `FlattenObservation\(env\)`"):
        DualStudent(lambda: Seen(space), config=TINY)
    if space.shape and len(space.shape) == 3:
        model = stable_baselines3.PPO("MlpPolicy", Seen(space))
        with pytest.raises(PolicyKDError, match="observations of shape"):
            Teacher.load(model)


def test_an_image_in_a_zip_is_refused(tmp_path):
    stable_baselines3.PPO("MlpPolicy", Seen(spaces.Box(0, 255, (8, 8, 3), np.uint8))).save(tmp_path / "agent.zip")
    with pytest.raises(PolicyKDError, match=r"observations of shape \(3, 8, 8\)"):
        Teacher.load(tmp_path / "agent.zip")


def test_what_is_not_of_the_spaces_shape_is_one_line():
    with pytest.raises(PolicyKDError, match=r"the observation has shape \(2, 3\), and its space \(2, 2\)"):
        DualStudent(lambda: Seen(spaces.Box(-1, 1, (2, 2)), np.zeros((2, 3))), config=TINY)


def test_frames_of_several_axes_lie_along_the_last_one_as_sb3_stacks_them(caplog):
    stacked = VecFrameStack(VecNormalize(DummyVecEnv([square])), 3)
    model = stable_baselines3.PPO("MlpPolicy", stacked, n_steps=64, policy_kwargs={"net_arch": [8]}).learn(64)
    rows = np.random.default_rng(0).normal(size=(5, 2, 6)).astype(np.float32)
    frames = np.split(rows, 3, axis=-1)
    seen = np.concatenate([model.get_vec_normalize_env().normalize_obs(frame) for frame in frames], axis=-1)
    expected = model.predict(seen, deterministic=True)[0]
    np.testing.assert_allclose(Teacher.load(model).predict(rows)[0], expected, atol=1e-5)
    assert "row by row" not in caplog.text
    Teacher.load(model, lambda: FrameStackObservation(square(), 3))
    assert "reads observations of shape (2, 6), and PolicyKD/PointReach-v0 gives (3, 2, 2), row by row" in caplog.text
