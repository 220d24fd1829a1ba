"""SB3's agents in the benchmark get our settings, and evaluations neither change training nor count as its time."""

import numpy as np
import pytest
from stable_baselines3 import SAC
from stable_baselines3.common.monitor import load_results
from tiny_benchmark import REFERENCE, changed

from policykd import PolicyKDError
from policykd.benchmark import sb3_cell
from policykd.benchmark.random_actions import measured_reference, random_returns
from policykd.benchmark.sb3_cell import train_sb3_seeds
from policykd.benchmark.spec_file import parse_spec
from policykd.export import sb3
from policykd.learners.config import TD3Config
from policykd.learners.settings import NETWORKS

STEPS = 250
SETTINGS = {
    "net_arch": [16, 8],
    "batch_size": 16,
    "buffer_size": 1000,
    "learning_starts": 50,
    "gamma": 0.98,
    "tau": 0.01,
    "train_freq": 2,
}


def run(backbone, folder, n_eval_episodes=2, **changes):
    tasks = {"Pendulum-v1": {"backbones": [backbone], "reference": REFERENCE}}
    settings = {**SETTINGS, **changes}
    few = {"seeds": 1, "total_timesteps": STEPS, "n_eval_episodes": n_eval_episodes, "final_episodes": 1}
    (cell,) = parse_spec(changed(tasks=tasks, settings=settings, methods=["sb3"], **few)).cells
    rows, _ = train_sb3_seeds(cell, folder, lambda steps: None)
    return rows


@pytest.fixture
def made(monkeypatch):
    """The models that are made."""
    models = []
    make = sb3_cell.export.make_model

    def spy(*arguments):
        models.append(make(*arguments))
        return models[-1]

    monkeypatch.setattr(sb3_cell.export, "make_model", spy)
    return models


@pytest.mark.parametrize(("algorithm", "critics"), [("ddpg", 1), ("td3", 2)])
def test_trains_the_model_that_was_asked_for(tmp_path, made, algorithm, critics):
    rows = run(algorithm, tmp_path)
    (model,) = made
    assert (model.gamma, model.tau, model.batch_size, model.learning_starts) == (0.98, 0.01, 16, 50)
    assert model.replay_buffer.buffer_size == 1000
    assert model.train_freq.frequency == 2
    assert [layer.out_features for layer in model.actor.mu if hasattr(layer, "out_features")] == [16, 8, 1]
    assert len(model.critic.q_networks) == critics
    assert model._n_updates == 100
    np.testing.assert_array_equal(model.action_noise._sigma, [0.1])
    assert [(row.phase, row.steps) for row in rows] == [("curve", 125), ("curve", 250), ("final", 250)]
    assert load_results(str(tmp_path / "seed_0"))["l"].tolist() == [200]


def test_sac_explores_by_sampling_and_takes_its_own_settings(tmp_path, made):
    run("sac", tmp_path, ent_coef=0.2)
    (model,) = made
    assert type(model) is SAC and model.ent_coef == 0.2 and model.action_noise is None
    assert model._n_updates == 100


def test_one_seed_gives_one_curve_and_evaluating_does_not_change_training(tmp_path, made):
    first, again, other = run("td3", tmp_path / "a"), run("td3", tmp_path / "b"), run("td3", tmp_path / "c", 1)
    assert [row.mean for row in first] == [row.mean for row in again]
    assert [row.episodes for row in other] == [1, 1, 1]
    weights = [model.policy.state_dict() for model in made]
    for name, value in weights[0].items():
        assert value.equal(weights[2][name]), name


@pytest.mark.parametrize(
    ("backbone", "settings", "updates"),
    [
        ("td3", {**SETTINGS, "train_freq": 1}, [125 - 1 - 50, 250 - 1 - 50, 250 - 50]),  # before the step's own update
        ("ppo", {"n_steps": 125, "batch_size": 25, "n_epochs": 2}, [0, 2 * 5, 2 * 2 * 5]),  # before the rollout's
    ],
)
def test_rows_count_the_updates_that_were_made_before_each_evaluation(backbone, settings, updates, tmp_path):
    tasks = {"Pendulum-v1": {"backbones": [backbone], "reference": REFERENCE}}
    few = {"seeds": 1, "total_timesteps": STEPS, "n_eval_episodes": 1, "final_episodes": 1}
    (cell,) = parse_spec(changed(tasks=tasks, settings=settings, methods=["sb3"], **few)).cells
    assert [row.updates for row in train_sb3_seeds(cell, tmp_path, lambda steps: None)[0]] == updates


def test_time_of_evaluations_is_taken_out(tmp_path, monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(sb3_cell.time, "perf_counter", lambda: clock[0])
    play, step = sb3_cell.SameEvaluation.play, sb3_cell.Monitor.step

    def slow_play(self, *arguments):
        clock[0] += 1000.0
        return play(self, *arguments)

    def slow_step(self, action):
        clock[0] += 1.0  # a second per step of training
        return step(self, action)

    monkeypatch.setattr(sb3_cell.SameEvaluation, "play", slow_play)
    monkeypatch.setattr(sb3_cell.Monitor, "step", slow_step)
    assert [row.seconds for row in run("ddpg", tmp_path)] == [125, 250, 250]


def test_the_baseline_learns_from_as_many_steps_as_ours(made, tmp_path, monkeypatch):
    run("td3", tmp_path, n_eval_episodes=1, n_steps=3)
    assert made[0].n_steps == made[0].replay_buffer.n_steps == 3
    monkeypatch.setitem(sb3.MODELS, "td3", lambda policy, env, learning_rate: None)  # of an SB3 without n_steps
    with pytest.raises(PolicyKDError, match="n_steps=3 does not exist in this stable-baselines3"):
        sb3.make_model("td3", TD3Config(n_steps=3, action_noise_std=0.0), None)


@pytest.mark.parametrize(("backbone", "base"), [("ppo", "sb3"), ("sac", "sb3_double")])
@pytest.mark.parametrize("setting", [{"layer_norm": True}, {"network": "mine"}, {"critic_network": "mine"}])
def test_networks_that_sb3_has_not_are_refused_when_the_benchmark_is_read(backbone, base, setting, monkeypatch):
    monkeypatch.setitem(NETWORKS, "mine", lambda inputs, outputs: None)
    tasks = {"Pendulum-v1": {"backbones": [backbone], "reference": REFERENCE}}
    settings = {"n_steps": 50, **setting} if backbone == "ppo" else setting
    with pytest.raises(PolicyKDError, match=f"{next(iter(setting))}=.* does not apply to SB3 agents"):
        _ = parse_spec(changed(tasks=tasks, settings=settings, methods=["single", base])).cells


def test_no_noise_when_its_standard_deviation_is_zero(tmp_path, made):
    run("ddpg", tmp_path, n_eval_episodes=1, action_noise_std=0.0)
    assert made[0].action_noise is None


def test_references_are_random_actions_and_the_tasks_own_threshold():
    reference = measured_reference("Reacher-v5", 2, seed=0)  # no return there is above 0
    assert reference["high"] == -3.75 and "reward threshold" in reference["source"]
    reference = measured_reference("Pendulum-v1", 2, seed=0)
    assert reference["high"] == reference["low"] + 1 and "one more" in reference["source"]


def test_random_actions():
    returns = random_returns("Pendulum-v1", 3, seed=0)
    assert returns.shape == (3,)
    assert len(set(returns)) == 3
    assert (returns < 0).all() and (returns > -3300).all()
    np.testing.assert_array_equal(returns, random_returns("Pendulum-v1", 3, seed=0))
    assert not np.array_equal(returns, random_returns("Pendulum-v1", 3, seed=1))
