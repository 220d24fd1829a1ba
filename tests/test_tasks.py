"""What names a task, and that a saved agent finds the same task again."""

import gymnasium as gym
import numpy as np
import pytest
from tiny import POINT

from policykd import DualStudent, PolicyKDError
from policykd.measure.doctor_play import play
from policykd.tasks.spaces import find_task, short_id
from policykd.teachers.demonstrations import demonstrate
from policykd.teachers.score import score
from policykd.teachers.task import inspect_task

TINY = {"net_arch": (8,), "buffer_size": 500}


def test_an_id_keeps_its_module_and_gets_its_latest_version():
    assert find_task(f"policykd_envs:{POINT}").env_id == f"policykd_envs:{POINT}"
    assert find_task("HalfCheetah").env_id == "HalfCheetah-v5"
    assert short_id(f"policykd_envs:{POINT}") == POINT


def test_an_id_with_a_module_is_saved_whole_so_that_another_process_can_import_it(tmp_path):
    DualStudent(f"policykd_envs:{POINT}", config=TINY).save(tmp_path / "agent")
    assert DualStudent.load(tmp_path / "agent.safetensors").env_id == f"policykd_envs:{POINT}"


def test_an_agent_of_a_changed_task_is_not_loaded_onto_the_unchanged_one(tmp_path):
    changed = gym.make("Pendulum-v1", g=2.0)
    DualStudent(changed, config=TINY).save(tmp_path / "agent")
    with pytest.raises(PolicyKDError, match="pass it as env="):
        DualStudent.load(tmp_path / "agent.safetensors")
    agent = DualStudent.load(tmp_path / "agent.safetensors", env=changed)
    assert agent.factory().unwrapped.g == 2.0


def test_an_agent_of_an_unchanged_instance_is_loaded_by_its_id(tmp_path):
    DualStudent(gym.make("Pendulum-v1"), config=TINY).save(tmp_path / "agent")
    assert DualStudent.load(tmp_path / "agent.safetensors").env_id == "Pendulum-v1"


@pytest.mark.parametrize(
    "changed",
    [
        lambda: gym.make("Pendulum-v1", max_episode_steps=7),
        lambda: gym.wrappers.RescaleAction(gym.make("Pendulum-v1"), -1, 1),
        lambda: gym.make("Pendulum-v1").unwrapped,
    ],
)
def test_an_instance_with_another_time_limit_or_wrappers_is_not_what_its_id_says(changed, tmp_path):
    instance = changed()
    config = {**TINY, "learning_starts": 4, "batch_size": 4, "n_eval_episodes": 0}  # an episode may be endless
    agent = DualStudent(instance, backbone="sac", config=config).learn(10)
    agent.save(tmp_path / "agent")
    with pytest.raises(PolicyKDError, match="pass it as env="):
        DualStudent.load(tmp_path / "agent.safetensors")
    loaded, shipped = DualStudent.load(tmp_path / "agent.safetensors", env=instance), agent.ship(gradient_steps=1)
    for same in (loaded, shipped):
        assert same.factory().spec == agent.factory().spec and same.action_space == instance.action_space


def test_a_run_on_an_unchanged_instance_goes_on_by_its_id(tmp_path):
    config = {**TINY, "learning_starts": 4, "batch_size": 4, "n_eval_episodes": 0}
    DualStudent(gym.make("Pendulum-v1"), config=config, run_dir=tmp_path / "run").learn(20)
    assert DualStudent.load(tmp_path / "run").learn(20).num_timesteps == 40


class Unbounded(gym.Env):
    """A task that is refused by its actions."""

    observation_space, action_space = gym.spaces.Box(-1, 1, (2,)), gym.spaces.Box(-np.inf, np.inf, (1,))
    opened = 0

    def __init__(self):
        Unbounded.opened += 1

    def close(self):
        Unbounded.opened -= 1


def test_a_task_that_is_refused_is_closed():
    def act(observations):
        raise AssertionError

    looks = (
        lambda: inspect_task(Unbounded),
        lambda: score("a function", Unbounded, act, 1, 0),
        lambda: demonstrate(act, Unbounded, 1),
        lambda: play(Unbounded, act, 1, 0),
        lambda: DualStudent(Unbounded),
    )
    for look in looks:
        with pytest.raises(PolicyKDError, match="unbounded actions"):
            look()
    assert Unbounded.opened == 0
