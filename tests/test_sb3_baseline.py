import dataclasses

import numpy as np
import pytest
from stable_baselines3 import SAC
from stable_baselines3.common.monitor import load_results

from policykd.benchmark import sb3_baseline
from policykd.benchmark.sb3_baseline import random_policy_returns, run_sb3
from policykd.core.errors import PolicyKDError
from policykd.core.fields import change
from policykd.learners import LEARNERS

STEPS = 250
SETTINGS = {
    "net_arch": (16, 8),
    "batch_size": 16,
    "distill_batch_size": 16,
    "buffer_size": 1000,
    "learning_starts": 50,
    "gamma": 0.98,
    "tau": 0.01,
    "train_freq": 2,
}


def run(backbone, run_dir, progress=None, n_eval_episodes=2, steps=STEPS, eval_freq=100, **changes):
    config = change(LEARNERS[backbone].config_type(), {**SETTINGS, **changes})
    return run_sb3(
        backbone,
        "Pendulum-v1",
        config,
        total_timesteps=steps,
        seed=3,
        eval_freq=eval_freq,
        n_eval_episodes=n_eval_episodes,
        run_dir=run_dir,
        progress=progress,
    )


@pytest.fixture
def made(monkeypatch):
    """The models that run_sb3 makes."""
    models = []
    make = sb3_baseline.export.make_model

    def spy(*arguments):
        models.append(make(*arguments))
        return models[-1]

    monkeypatch.setattr(sb3_baseline.export, "make_model", spy)
    return models


@pytest.mark.parametrize(("algorithm", "critics"), [("ddpg", 1), ("td3", 2)])
def test_trains_the_model_that_was_asked_for(tmp_path, made, algorithm, critics):
    reports = []
    result = run(algorithm, tmp_path / "run", reports.append)
    (model,) = made
    assert (model.gamma, model.tau, model.batch_size, model.learning_starts) == (0.98, 0.01, 16, 50)
    assert model.replay_buffer.buffer_size == 1000
    assert model.train_freq.frequency == 2
    assert [layer.out_features for layer in model.actor.mu if hasattr(layer, "out_features")] == [16, 8, 1]
    assert len(model.critic.q_networks) == critics
    assert model._n_updates == 100
    np.testing.assert_array_equal(model.action_noise._sigma, [0.1])
    np.testing.assert_array_equal(result.timesteps, [100, 200])
    assert result.returns.shape == (2, 2)
    assert 0 < result.wall_seconds < 60
    assert result.steps_per_second == pytest.approx(STEPS / result.wall_seconds)
    assert reports[-1] == STEPS
    assert reports == sorted(set(reports))


def test_sac_explores_by_sampling_and_takes_its_own_settings(tmp_path, made):
    result = run("sac", tmp_path / "run", ent_coef=0.2)
    (model,) = made
    assert type(model) is SAC and model.ent_coef == 0.2 and model.action_noise is None
    assert model._n_updates == 100 and result.returns.shape == (2, 2)


def test_files_have_sb3s_layout(tmp_path):
    result = run("ddpg", tmp_path)
    with np.load(tmp_path / "evaluations.npz") as saved:
        np.testing.assert_array_equal(saved["timesteps"], result.timesteps)
        np.testing.assert_array_equal(saved["results"], result.returns)
        assert saved["ep_lengths"].shape == (2, 2)
    assert load_results(str(tmp_path))["l"].tolist() == [200]


def test_one_seed_gives_one_curve_and_evaluating_does_not_change_training(tmp_path, made):
    first = run("td3", tmp_path / "a")
    again = run("td3", tmp_path / "b")
    other = run("td3", tmp_path / "c", n_eval_episodes=1)
    np.testing.assert_array_equal(first.returns, again.returns)
    assert other.returns.shape == (2, 1)
    weights = [model.policy.state_dict() for model in made]
    for name, value in weights[0].items():
        assert value.equal(weights[2][name]), name


def test_time_of_evaluations_and_reports_is_taken_out(tmp_path, monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(sb3_baseline.time, "perf_counter", lambda: clock[0])

    def report(steps):
        clock[0] += 10.0

    step = sb3_baseline.Monitor.step

    def timed_step(self, action):
        clock[0] += 1.0  # a second per step, in training and in evaluations
        return step(self, action)

    monkeypatch.setattr(sb3_baseline.Monitor, "step", timed_step)
    result = run("ddpg", tmp_path, report)
    assert result.wall_seconds == STEPS
    assert result.steps_per_second == 1.0


def test_no_noise_when_its_standard_deviation_is_zero(tmp_path, made):
    run("ddpg", tmp_path, steps=10, eval_freq=10, n_eval_episodes=1, action_noise_std=0.0)
    assert made[0].action_noise is None


def test_refuses_what_cannot_work(tmp_path):
    with pytest.raises(PolicyKDError, match=r"'dqn'.*ddpg, td3, sac"):
        run_sb3(
            "dqn",
            "Pendulum-v1",
            LEARNERS["ddpg"].config_type(),
            total_timesteps=STEPS,
            seed=0,
            eval_freq=100,
            n_eval_episodes=1,
            run_dir=tmp_path,
        )
    for eval_freq in (0, STEPS + 1):
        with pytest.raises(PolicyKDError, match="eval_freq"):
            run("ddpg", tmp_path, eval_freq=eval_freq)
    kept = tmp_path / "0.monitor.csv"
    kept.write_text("an older run")
    with pytest.raises(PolicyKDError, match="holds files already"):
        run("ddpg", tmp_path)
    assert kept.read_text() == "an older run"


def test_result_is_frozen(tmp_path):
    result = sb3_baseline.BaselineResult(np.zeros(1), np.zeros((1, 1)), 1.0, 2.0)
    with pytest.raises(dataclasses.FrozenInstanceError):
        result.wall_seconds = 2.0


def test_random_policy():
    returns = random_policy_returns("Pendulum-v1", 3, seed=0)
    assert returns.shape == (3,)
    assert len(set(returns)) == 3
    assert (returns < 0).all() and (returns > -3300).all()
    np.testing.assert_array_equal(returns, random_policy_returns("Pendulum-v1", 3, seed=0))
    assert not np.array_equal(returns, random_policy_returns("Pendulum-v1", 3, seed=1))
