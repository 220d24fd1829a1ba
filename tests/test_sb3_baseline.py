import dataclasses

import numpy as np
import pytest
from stable_baselines3.common.monitor import load_results

from policykd.benchmark import sb3_baseline
from policykd.benchmark.sb3_baseline import random_policy_returns, run_sb3
from policykd.errors import PolicyKDError

STEPS = 250
SETTINGS = {
    "total_timesteps": STEPS,
    "seed": 3,
    "net_arch": (16, 8),
    "batch_size": 16,
    "learning_rate": 1e-3,
    "buffer_size": 1000,
    "learning_starts": 50,
    "gamma": 0.98,
    "tau": 0.01,
    "train_freq": 2,
    "gradient_steps": 1,
    "action_noise_std": 0.1,
    "eval_freq": 100,
    "n_eval_episodes": 2,
}


@pytest.fixture
def made(monkeypatch):
    """The models that run_sb3 makes."""
    models = []

    def spy(model_class):
        def make(*args, **kwargs):
            models.append(model_class(*args, **kwargs))
            return models[-1]

        return make

    spies = {name: spy(model_class) for name, model_class in sb3_baseline.MODELS.items()}
    monkeypatch.setattr(sb3_baseline, "MODELS", spies)
    return models


@pytest.mark.parametrize(("algorithm", "critics"), [("ddpg", 1), ("td3", 2)])
def test_trains_the_model_that_was_asked_for(tmp_path, made, algorithm, critics):
    reports = []
    result = run_sb3(algorithm, "Pendulum-v1", run_dir=tmp_path / "run", progress=reports.append, **SETTINGS)
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


def test_files_have_sb3s_layout(tmp_path):
    result = run_sb3("ddpg", "Pendulum-v1", run_dir=tmp_path, **SETTINGS)
    with np.load(tmp_path / "evaluations.npz") as saved:
        np.testing.assert_array_equal(saved["timesteps"], result.timesteps)
        np.testing.assert_array_equal(saved["results"], result.returns)
        assert saved["ep_lengths"].shape == (2, 2)
    assert load_results(str(tmp_path))["l"].tolist() == [200]


def test_one_seed_gives_one_curve_and_evaluating_does_not_change_training(tmp_path, made):
    first = run_sb3("td3", "Pendulum-v1", run_dir=tmp_path / "a", **SETTINGS)
    again = run_sb3("td3", "Pendulum-v1", run_dir=tmp_path / "b", **SETTINGS)
    other = run_sb3("td3", "Pendulum-v1", run_dir=tmp_path / "c", **{**SETTINGS, "n_eval_episodes": 1})
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
    result = run_sb3("ddpg", "Pendulum-v1", run_dir=tmp_path, progress=report, **SETTINGS)
    assert result.wall_seconds == STEPS
    assert result.steps_per_second == 1.0


def test_no_noise_when_its_standard_deviation_is_zero(tmp_path, made):
    settings = {
        **SETTINGS,
        "total_timesteps": 10,
        "eval_freq": 10,
        "n_eval_episodes": 1,
        "action_noise_std": 0.0,
    }
    run_sb3("ddpg", "Pendulum-v1", run_dir=tmp_path, **settings)
    assert made[0].action_noise is None


def test_refuses_what_cannot_work(tmp_path):
    with pytest.raises(PolicyKDError, match=r"'dqn'.*ddpg, td3, sac"):
        run_sb3("dqn", "Pendulum-v1", run_dir=tmp_path, **SETTINGS)
    for eval_freq in (0, STEPS + 1):
        with pytest.raises(PolicyKDError, match="eval_freq"):
            run_sb3("ddpg", "Pendulum-v1", run_dir=tmp_path, **{**SETTINGS, "eval_freq": eval_freq})
    kept = tmp_path / "0.monitor.csv"
    kept.write_text("an older run")
    with pytest.raises(PolicyKDError, match="holds files already"):
        run_sb3("ddpg", "Pendulum-v1", run_dir=tmp_path, **SETTINGS)
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
