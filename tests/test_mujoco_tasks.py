"""DPD with every backbone on the large MuJoCo tasks, and actions in the units of each task."""

import gymnasium as gym
import numpy as np
import pytest
import torch

from policykd import DualStudent
from policykd.core.networks import state_tensors
from policykd.learners import LEARNERS

SMALL = {"net_arch": (64, 64), "batch_size": 64, "n_eval_episodes": 1, "log_freq": 500, "checkpoint_freq": 0}
REPLAY = {"buffer_size": 10_000, "learning_starts": 500}
ROLLOUT = {"n_steps": 512, "normalize_observation": True, "normalize_reward": True}
BOUNDS = {"Humanoid-v5": 0.4, "Pusher-v5": 2.0, "InvertedPendulum-v5": 3.0, "HalfCheetah-v5": 1.0}


@pytest.mark.nightly
@pytest.mark.parametrize("backbone", LEARNERS)
@pytest.mark.parametrize("task", ["Swimmer-v5", "Walker2d-v5", "Hopper-v5", "Ant-v5", "Humanoid-v5"])
def test_five_thousand_steps_of_dpd_stay_finite(task, backbone, tmp_path):
    config = {**SMALL, **(ROLLOUT if backbone == "ppo" else REPLAY)}
    agent = DualStudent(task, backbone=backbone, config=config, run_dir=tmp_path / "run")
    agent.learn(5_000)
    assert agent.num_timesteps >= 5_000 and agent.recipe.n_updates > 0
    for name, tensor in state_tensors(agent.learner).items():
        assert torch.isfinite(tensor).all(), name
    rows = [log.read_text(encoding="utf-8").splitlines() for log in (tmp_path / "run").rglob("progress.csv")]
    assert rows and all("distill/loss" in lines[0] for lines in rows)
    for lines in rows:
        cells = [cell for line in lines[1:] for cell in line.split(",") if cell]
        assert cells and np.isfinite(np.array(cells, float)).all()
    assert np.isfinite(agent.evaluations[-1].returns).all()
    assert_bounds(agent, agent.action_space.high)


@pytest.mark.parametrize("backbone", LEARNERS)
@pytest.mark.parametrize("task", BOUNDS)
def test_actions_reach_the_bounds_of_the_task_and_no_further(task, backbone):
    config = {"net_arch": (8,), **({} if backbone == "ppo" else {"buffer_size": 300})}
    agent = DualStudent(task, backbone=backbone, config=config)
    with torch.no_grad():
        agent.learner.actor.mul_(1e4)  # saturated, also where the last layer begins small
    assert_bounds(agent, np.full(agent.action_space.shape, BOUNDS[task]))


def assert_bounds(agent, high):
    """What is predicted and what training sends to the environment lies within +-high; and saturated, on the bound."""
    space = gym.make(agent.env_id).action_space
    np.testing.assert_allclose(space.high, high)
    observations = np.random.default_rng(0).normal(size=(64, *agent.observation_space.shape)) * 10
    actions, _ = agent.predict(observations, learner=0)
    assert actions.shape == (64, *space.shape) and (np.abs(actions) <= high + 1e-6).all()
    if agent.num_timesteps == 0:
        np.testing.assert_allclose(np.abs(actions).max(0), high, rtol=1e-3)
    noisy, _ = agent.predict(observations, learner=0, deterministic=False)
    assert all(space.contains(action) for action in noisy)
