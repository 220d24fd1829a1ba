"""A batched simulator in JAX, Brax, as the environments of peers and of students: needs ``pip install brax``."""

import runpy
from pathlib import Path

import numpy as np
import pytest
import torch

from policykd import TeacherStudent

pytest.importorskip("brax", reason="brax is not installed")
pytestmark = pytest.mark.nightly  # JAX compiles the physics
EXAMPLE = Path(__file__).parents[1] / "examples" / "brax_env.py"


@pytest.fixture(scope="module")
def example():
    return runpy.run_path(str(EXAMPLE))


def test_peers_learn_in_brax(example, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    agent = example["main"]("inverted_pendulum", num_envs=4, steps=1_200)
    assert isinstance(agent.collector.observations, torch.Tensor) and agent.collector.observations.shape == (8, 4)
    assert agent.num_timesteps == 1_200
    assert "1,200 steps: returns of the two peers [" in capsys.readouterr().out


def test_episodes_of_brax_end_as_the_loop_needs_it(example):
    env = example["Brax"](3, "inverted_pendulum", episode_length=5)
    first, _ = env.reset(seed=1)
    for step in range(5):
        observations, rewards, terminated, truncated, infos = env.step(torch.zeros(3, 1))
        assert rewards.tolist() == [1.0] * 3 and not terminated.any()
        assert truncated.all() == (step == 4) == (not torch.equal(observations, infos["final_obs"]))
    assert (infos["final_obs"] - first).abs().max() < 1 and (observations - first).abs().max() > 0


def test_students_learn_in_brax(example):
    def make(num_envs):
        return example["Brax"](num_envs, "inverted_pendulum")

    def balance(observation):
        return np.clip([-(3 * observation[1] + observation[3])], -1, 1)

    config = {"n_envs": 4, "round_steps": 100, "round_updates": 20, "net_arch": (16,), "n_eval_episodes": 2}
    students = TeacherStudent(make, balance, config={**config, "teacher_episodes": 2, "allow_weak_teacher": True})
    students.learn(400)
    assert students.dataset.size == 400 and np.isfinite(students.evaluations[-1].returns).all()
