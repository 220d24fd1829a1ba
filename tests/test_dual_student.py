"""DualStudent has Stable-Baselines3's surface: what works on an SB3 model works on it."""

import gymnasium as gym
import numpy as np
import policykd_envs
import pytest
import torch
from stable_baselines3 import DDPG, TD3
from stable_baselines3.common.callbacks import (
    BaseCallback,
    CheckpointCallback,
    EvalCallback,
    EveryNTimesteps,
    LogEveryNTimesteps,
    ProgressBarCallback,
    StopTrainingOnMaxEpisodes,
    StopTrainingOnRewardThreshold,
)
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv
from tiny import POINT, TINY

from policykd.core.errors import PolicyKDError
from policykd.tasks import Evaluation
from policykd.training.dual_student import DualStudent

SB3 = {"ddpg": DDPG, "td3": TD3}


def make(env=POINT, **changes):
    return DualStudent(env, **{"config": TINY, **changes})


@pytest.fixture(scope="module")
def trained():
    """Two groups of two peers after 200 steps each."""
    return make(seeds=(0, 1)).learn(200)


def test_predicts_one_observation_and_several(trained):
    observations = np.random.default_rng(0).uniform(-1, 1, (5, 4)).astype(np.float32)
    several, state = trained.predict(observations, learner=1)
    assert state is None
    assert (several.shape, several.dtype) == ((5, 2), np.float32)
    for observation, action in zip(observations, several, strict=True):
        one, _ = trained.predict(observation, learner=1)
        assert one.shape == (2,)
        np.testing.assert_allclose(one, action, atol=1e-6)
        assert one in trained.action_space


def test_deterministic_predictions_repeat_and_others_explore(trained):
    observation = np.zeros(4, np.float32)
    np.testing.assert_array_equal(trained.predict(observation)[0], trained.predict(observation)[0])
    noisy = np.stack([trained.predict(observation, deterministic=False)[0] for _ in range(300)])
    assert len(np.unique(noisy, axis=0)) > 250
    assert np.abs(noisy).max() <= 1
    calm = make(config={**TINY, "action_noise_std": 0.0})
    silent = calm.predict(observation, deterministic=False)[0]
    np.testing.assert_allclose(silent, calm.predict(observation, deterministic=True)[0], atol=1e-6)


def test_every_learner_has_its_own_policy_and_best_is_that_of_the_last_evaluation(trained, monkeypatch):
    observation = np.full(4, 0.3, np.float32)
    actions = np.stack([trained.predict(observation, learner=k)[0] for k in range(4)])
    assert len(np.unique(actions, axis=0)) == 4
    # the second learner was best once, the third is best now
    before = Evaluation(np.array([[0.0], [9.0], [1.0], [2.0]]), np.ones((4, 1)))
    last = Evaluation(np.array([[-20.0, 15.0], [1.0, 1.0], [-9.0, 12.0], [1.4, 1.4]]), np.ones((4, 2)))
    monkeypatch.setattr(trained.run, "evaluations", [before, last])
    np.testing.assert_array_equal(trained.predict(observation)[0], actions[2])
    np.testing.assert_array_equal(trained.predict(observation, learner="best")[0], actions[2])
    monkeypatch.setattr(trained.run, "evaluations", [])
    np.testing.assert_array_equal(trained.predict(observation)[0], actions[0])


@pytest.mark.parametrize("learner", [4, -1, "worst", None])
def test_a_learner_that_does_not_exist_is_refused(trained, learner):
    with pytest.raises(PolicyKDError, match=r"does not exist: take 0 to 3, or 'best'$"):
        trained.predict(np.zeros(4, np.float32), learner=learner)


@pytest.mark.parametrize(("env", "bound"), [("InvertedPendulum-v5", 3.0), ("Pendulum-v1", 2.0)])
def test_actions_are_in_units_of_the_environment(env, bound):
    agent = make(env)
    size = agent.observation_space.shape[0]
    with torch.no_grad():
        agent.learner.actor *= 50  # saturates tanh
    observations = np.random.default_rng(1).normal(size=(50, size))
    actions, _ = agent.predict(observations)
    assert actions.dtype == agent.action_space.dtype
    np.testing.assert_allclose(np.abs(actions).max(), bound, rtol=1e-4)
    assert np.abs(actions).max() <= bound
    raw = agent.policies(np.repeat(observations[:1], 2, 0).astype(np.float32))
    np.testing.assert_allclose(actions[0], bound * raw[0], rtol=1e-5)


def test_the_environment_gets_and_the_replay_keeps_its_own_units():
    """Actions of an environment of bounds +-3 are scaled up for it once, and stored in [-1, 1]."""
    seen = []

    class Spy(gym.ActionWrapper):
        def action(self, action):
            seen.append(np.array(action))
            return action

    agent = make(lambda: Spy(gym.make("InvertedPendulum-v5")), config={**TINY, "learning_starts": 60})
    agent.get_env()
    seen.clear()
    agent.learn(80)
    stored = agent.replay_buffer.storage[:, :40, 4:5].numpy()
    for k in range(2):
        np.testing.assert_allclose(np.stack(seen[k : 80 + k : 2])[:40], 3 * stored[k], atol=1e-6)
    assert 0.9 < np.abs(stored).max() <= 1


def test_sb3_evaluate_policy_works(trained):
    env = DummyVecEnv([lambda: Monitor(policykd_envs.make(POINT)) for _ in range(2)])
    env.seed(5)
    returns, lengths = evaluate_policy(trained, env, n_eval_episodes=6, return_episode_rewards=True)
    assert lengths == [50] * 6
    assert all(-200 < value < 0 for value in returns)


class Count(BaseCallback):
    """Notes what it is called for, and stops after some calls."""

    def __init__(self, stop_after=None):
        super().__init__()
        self.events, self.stop_after, self.sizes = [], stop_after, []

    def _init_callback(self):
        self.events.append("init")

    def _on_training_start(self):
        self.events.append("training start")

    def _on_rollout_start(self):
        self.events.append("rollout start")

    def _on_step(self):
        self.events.append(self.num_timesteps)
        self.sizes.append((self.locals["rewards"].shape, self.locals["dones"].shape, len(self.locals["infos"])))
        return self.stop_after is None or self.n_calls < self.stop_after

    def _on_rollout_end(self):
        self.events.append("rollout end")

    def _on_training_end(self):
        self.events.append("training end")


def test_callbacks_are_called_as_sb3_calls_them():
    callback, agent = Count(), make(seeds=(0, 1), config={**TINY, "train_freq": 2})
    agent.learn(8, callback=callback)
    rollouts = ["rollout start", 2, 4, "rollout end", "rollout start", 6, 8, "rollout end"]
    assert callback.events == ["init", "training start", *rollouts, "training end"]
    assert callback.sizes == [((4,), (4,), 4)] * 4
    assert callback.model is agent
    assert callback.training_env is agent.get_env()
    assert callback.logger is agent.logger


def test_a_callback_that_returns_false_stops():
    callback = Count(stop_after=3)
    assert make().learn(100, callback=callback).num_timesteps == 6
    assert callback.events[-1] == "training end"


def test_learn_takes_none_a_list_and_a_function():
    calls = []

    def function(local_variables, global_variables):
        calls.append(local_variables["rewards"].shape)
        return len(calls) < 5

    first, second = Count(), Count()
    assert make().learn(4, callback=None).num_timesteps == 4
    make().learn(4, callback=[first, second])
    assert first.events == second.events != []
    assert make().learn(100, callback=function).num_timesteps == 10
    assert calls == [(2,)] * 5


def test_evaluation_callback_stops_early_and_saves(tmp_path):
    env = Monitor(policykd_envs.make(POINT))
    agent = make()
    stop = StopTrainingOnRewardThreshold(-1000.0)  # every policy reaches it: the first evaluation stops
    agent.learn(
        200,
        callback=EvalCallback(
            DummyVecEnv([lambda: env]),
            callback_on_new_best=stop,
            n_eval_episodes=2,
            eval_freq=10,
            log_path=str(tmp_path),
            best_model_save_path=str(tmp_path),
            verbose=0,
        ),
    )
    assert agent.num_timesteps == 20
    assert np.load(tmp_path / "evaluations.npz")["results"].shape == (1, 2)
    best = DualStudent.load(tmp_path / "best_model.safetensors")
    assert best.num_timesteps == 20


def test_checkpoint_and_every_n_timesteps_callbacks(tmp_path):
    count = Count()
    agent = make().learn(
        60, callback=[CheckpointCallback(10, str(tmp_path)), EveryNTimesteps(20, count), LogEveryNTimesteps(30)]
    )
    assert [event for event in count.events if isinstance(event, int)] == [20, 40, 60]
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {f"rl_model_{n}_steps.zip" for n in (20, 40, 60)}  # every 10 calls, two peers a call
    loaded = DualStudent.load(tmp_path / "rl_model_40_steps.zip")
    assert loaded.num_timesteps == 40
    assert (loaded.learner.actor != agent.learner.actor).any()


def test_max_episodes_counts_each_environment():
    agent = make(seeds=(0, 1)).learn(1000, callback=StopTrainingOnMaxEpisodes(2))
    assert agent.num_timesteps == 200  # two episodes of 50 steps of each of the two peers


def test_progress_bar_callback_reaches_the_end():
    agent, bar = make(), ProgressBarCallback()
    agent.learn(40, callback=bar)
    assert bar.pbar.n == 40


def test_learn_returns_itself_and_adds_steps():
    agent = make()
    assert agent.learn(20) is agent
    assert agent.learn(30).num_timesteps == 50
    assert isinstance(agent.get_env(), VecEnv)
    assert agent.get_env().num_envs == 2
    assert agent.logger.get_dir() is None
    assert agent.action_space == agent.get_env().action_space


@pytest.mark.parametrize("backbone", SB3)
@pytest.mark.parametrize("env", [POINT, "InvertedPendulum-v5"])
def test_to_sb3_is_a_real_model(backbone, env, tmp_path):
    agent = make(env, backbone=backbone, seeds=(0, 1)).learn(120)
    observations = np.random.default_rng(3).normal(size=(200, 4)).astype(np.float32)
    for k in range(4):
        model = agent.to_sb3(learner=k)
        assert type(model) is SB3[backbone]
        expected = agent.predict(observations, learner=k)[0]
        np.testing.assert_allclose(model.predict(observations, deterministic=True)[0], expected, atol=1e-6)
        assert model.num_timesteps == 120
    model.save(tmp_path / "model")
    loaded = SB3[backbone].load(tmp_path / "model", env=policykd_envs.make(env))
    np.testing.assert_allclose(loaded.predict(observations, deterministic=True)[0], expected, atol=1e-6)
    before = [parameter.clone() for parameter in loaded.actor.parameters()]
    loaded.learn(60, reset_num_timesteps=False)
    assert loaded.num_timesteps == 180
    assert any((old != new).any() for old, new in zip(before, loaded.actor.parameters(), strict=True))
    agent.to_sb3(k).learn(30)  # also without saving it first


def test_saving_and_loading_predicts_the_same(trained, tmp_path):
    observations = np.random.default_rng(4).normal(size=(20, 4))
    trained.save(tmp_path / "agent")
    loaded = DualStudent.load(tmp_path / "agent.safetensors")
    for learner in (0, 1, 2, 3, "best"):
        np.testing.assert_array_equal(
            loaded.predict(observations, learner=learner)[0], trained.predict(observations, learner=learner)[0]
        )
    assert loaded.num_timesteps == trained.num_timesteps
    assert loaded.config == trained.config


def test_environment_as_id_instance_or_function(tmp_path):
    shorter = gym.make(POINT, max_episode_steps=7)
    agents = [make(POINT), make(policykd_envs.make(POINT)), make(lambda: policykd_envs.make(POINT)), make(shorter)]
    lengths = [agent.evaluate(1, seed=0).lengths.tolist() for agent in agents]
    assert lengths == [[[50], [50]]] * 3 + [[[7], [7]]]
    assert {agent.env_id for agent in agents} == {POINT}
    agents[3].save(tmp_path / "agent")
    loaded = DualStudent.load(tmp_path / "agent.safetensors", env=shorter)
    assert loaded.evaluate(1, seed=0).lengths.tolist() == [[7], [7]]


def test_equal_seeds_give_equal_agents_and_others_do_not():
    first, same, other = (make(seeds=(seed,)).learn(80).learner.actor for seed in (3, 3, 4))
    np.testing.assert_array_equal(first, same)
    assert (first != other).any()
