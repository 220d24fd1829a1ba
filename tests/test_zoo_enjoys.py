"""rl-baselines3-zoo's own code plays exports and run folders as they play here."""

import importlib.util

import gymnasium as gym
import numpy as np
import pytest
import torch
from sb3_agents import Lopsided
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize
from test_groups import Goal
from tiny import POINT
from zoo import zoo

from policykd import DualStudent, Teacher, TeacherStudent
from policykd.export import zoo_settings
from policykd.export.hub import to_hub_folder
from policykd.export.zoo import to_zip
from policykd.export.zoo_settings import _yaml

PPO = {"net_arch": (8, 8), "n_steps": 32, "batch_size": 16, "n_epochs": 2, "distill_batch_size": 8, "eval_freq": 64}
NORMALISED = {**PPO, "normalize_observation": True, "normalize_reward": True, "n_eval_episodes": 1}
needs_zoo = pytest.mark.skipif(not importlib.util.find_spec("rl_zoo3"), reason="rl_zoo3 is not installed")
FILE = "PolicyKD-PointReach-v0"


def far(agent):
    """Statistics without which the agent would act otherwise."""
    agent.learner.observation_stats.mean.add_(0.5)
    agent.learner.observation_stats.var.mul_(9.0)
    agent.learner.return_stats.var.mul_(1e4)
    return agent


@pytest.fixture(scope="module")
def normalised(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run") / "run"
    return far(DualStudent(POINT, backbone="ppo", config=NORMALISED, run_dir=folder)).learn(128)


def enjoy(folder, algo, env_id, load_best=False):
    """What ``rl_zoo3.enjoy`` does before it plays: the model, and the environment in its wrappers."""
    from huggingface_sb3 import EnvironmentName  # the zoo's way to write an id as a file name

    utils = zoo("rl_zoo3.utils")
    name = EnvironmentName(env_id)
    _, model_path, log_path = utils.get_model_path(0, str(folder), algo, name, load_best)
    hyperparams, stats_path = utils.get_saved_hyperparams(f"{log_path}/{name}", test_mode=True)
    env = utils.create_test_env(env_id, 1, stats_path, 0, None, False, hyperparams, {}, DummyVecEnv)
    return utils.ALGOS[algo.split("-")[-1]].load(model_path, device="cpu"), env


def assert_plays_alike(agent, k, model, env):
    raw = np.random.default_rng(0).uniform(-1, 1, (20, agent.observation_space.shape[0])).astype(np.float32)
    shown = env.normalize_obs(raw) if isinstance(env, VecNormalize) else raw
    np.testing.assert_allclose(model.predict(shown, deterministic=True)[0], agent.predict(raw, learner=k)[0], atol=1e-5)


@needs_zoo
def test_the_zoo_plays_an_export(normalised, tmp_path):
    to_zip(normalised, 1, tmp_path / "ppo" / f"{FILE}.zip")
    model, env = enjoy(tmp_path, "ppo", POINT)
    assert isinstance(env, VecNormalize) and not env.training and not env.norm_reward
    assert_plays_alike(normalised, 1, model, env)


@needs_zoo
def test_the_zoo_plays_the_best_of_a_run_folder(normalised):
    best = normalised.folder.learner_folders[1]
    model, env = enjoy(normalised.folder.path, "dpd-ppo", POINT, load_best=True)
    assert isinstance(env, VecNormalize)
    raw = np.random.default_rng(0).uniform(-1, 1, (20, 4)).astype(np.float32)
    ours = Teacher.load(best / "best_model.zip", env=POINT).predict(raw)[0]
    np.testing.assert_allclose(
        np.clip(model.predict(env.normalize_obs(raw), deterministic=True)[0], -1, 1), ours, atol=1e-5
    )


@needs_zoo
def test_the_zoo_plays_what_is_not_normalised_and_what_sees_a_part(tmp_path):
    agent = DualStudent(POINT, backbone="td3", config={"net_arch": (8,), "buffer_size": 300})
    to_zip(agent, 0, tmp_path / "td3" / f"{FILE}.zip")
    model, env = enjoy(tmp_path, "td3", POINT)
    assert not isinstance(env, VecNormalize)
    assert_plays_alike(agent, 0, model, env)
    teacher = Teacher.load(lambda o: np.clip(10 * o[..., 2:], -1, 1), env=POINT)
    student = TeacherStudent(POINT, teacher, config={"net_arch": (8,), "student_observations": (2, 3)})
    to_zip(student, 0, tmp_path / "ppo" / f"{FILE}.zip")
    model, env = enjoy(tmp_path, "ppo", POINT)
    assert env.observation_space.shape == (2,) and model.predict(env.reset())[0].shape == (1, 2)


def test_statistics_leave_rewards_as_the_task_gives_them(normalised, tmp_path):
    to_zip(normalised, 0, tmp_path / "a.zip")
    env = VecNormalize.load(str(tmp_path / "a" / "vecnormalize.pkl"), DummyVecEnv([normalised.factory]))
    model = normalised.to_sb3(0)
    total, _ = evaluate_policy(model, env, 2, warn=False)
    assert -150 < total < -1  # fifty steps of at most 2.9; scaled rewards would be a hundredth


def test_a_written_agents_values_are_still_those_of_scaled_rewards(normalised, tmp_path):
    to_zip(normalised, 0, tmp_path / "a.zip")
    written, live = Teacher.load(tmp_path / "a.zip", env=POINT), Teacher.load(normalised.to_sb3(0), env=POINT)
    observations = torch.from_numpy(np.random.default_rng(0).uniform(-1, 1, (20, 4)).astype(np.float32))
    np.testing.assert_allclose(written.value(observations), live.value(observations), rtol=1e-5)
    assert written.value(observations).abs().max() > 0


def test_who_takes_a_normalised_agent_is_told_what_its_zip_lacks(normalised, caplog):
    normalised.to_sb3(0)
    assert len(caplog.records) == 1 and "its zip has no normaliser: write both" in caplog.text
    Teacher.load(normalised, env=POINT)  # which takes the normaliser, too
    DualStudent(POINT, backbone="ppo", config={**NORMALISED, "normalize_observation": False}).to_sb3(0)
    assert len(caplog.records) == 1


def test_what_the_zoo_reads_is_yaml(normalised, tmp_path):
    yaml = pytest.importorskip("yaml", reason="PyYAML is not installed")
    to_zip(normalised, 1, tmp_path / "a.zip")
    config, arguments = (
        yaml.safe_load((tmp_path / "a" / f"{name}.yml").read_text(encoding="utf-8")) for name in ("config", "args")
    )
    assert config["normalize"] == "{'norm_obs': True, 'norm_reward': True}" and config["n_timesteps"] == 128
    assert arguments["env"] == POINT and arguments["env_kwargs"] is None and arguments["algo"] == "ppo"
    value = {"a": [1e-5, 2.5e16, 1.5, True, None, "x: y"], "b": {}}
    assert yaml.safe_load(_yaml(value)) == value


def test_an_instances_own_arguments_are_told():
    yaml = pytest.importorskip("yaml", reason="PyYAML is not installed")
    agent = DualStudent(gym.make("Pendulum-v1", g=2.5), config={"net_arch": (8,), "buffer_size": 300})
    arguments = yaml.safe_load(zoo_settings(agent, 0)["args.yml"])
    assert arguments["env"] == "Pendulum-v1" and arguments["env_kwargs"] == {"g": 2.5}
    agent = DualStudent(Lopsided, config={"net_arch": (8,), "buffer_size": 300})
    text = zoo_settings(agent, 0)["args.yml"]
    assert text.startswith("# made by a function") and yaml.safe_load(text)["env_kwargs"] is None


def test_the_hubs_folder_has_them_where_the_zoo_looks(normalised, tmp_path):
    to_hub_folder(normalised, 0, tmp_path / "hub", n_eval_episodes=1)
    assert {"config.yml", "args.yml", "vec_normalize.pkl"} <= {path.name for path in (tmp_path / "hub").iterdir()}


@pytest.mark.parametrize("task", [POINT, "PolicyKD/dicts-v0"])
def test_the_code_on_the_hubs_card_plays_what_sees_a_part_or_a_history(tmp_path, monkeypatch, task):
    gym.register("PolicyKD/dicts-v0", lambda: gym.wrappers.TimeLimit(Goal(), 9))
    try:
        seen = {"student_observations": (2, 3), "history": 2, "n_eval_episodes": 1, "teacher_episodes": 1}
        config = {**PPO, **seen, "normalize_observation": True, "allow_weak_teacher": True}
        student = TeacherStudent(task, lambda o: np.clip(10 * o[..., 2:], -1, 1), method="kickstarting", config=config)
        student.learn(64)
        to_hub_folder(student, 0, tmp_path / "hub", n_eval_episodes=1)
        card = (tmp_path / "hub" / "README.md").read_text(encoding="utf-8")
        assert "| observations | columns 2, 3 of 4, the latest 2 together, normalised;" in card
        monkeypatch.chdir(tmp_path / "hub")
        names = {"Teacher": Teacher}
        exec(card.split("```python\n")[1].split("```")[0], names)
        raw = names["env"].unnormalize_obs(names["observation"])
        np.testing.assert_allclose(names["action"], student.predict(raw)[0], atol=1e-5)
        loaded = eval(card.split("from the files: `")[1].split("`")[0].replace("path/of/this/folder", "."), names)
        np.testing.assert_allclose(loaded.predict(raw)[0], student.predict(raw)[0], atol=1e-5)
    finally:
        gym.registry.pop("PolicyKD/dicts-v0")


@needs_zoo
def test_importing_the_zoo_leaves_gymnasiums_time_limit_to_all_other_tests():
    zoo("rl_zoo3.utils")
    layers = repr(gym.make("CartPole-v1"))
    assert "TimeLimit" in layers and "Patched" not in layers
