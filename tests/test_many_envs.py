"""Several environments of each learner, off policy: SB3's counting, its transitions, and exact resumption."""

import gymnasium as gym
import numpy as np
import pytest
import stable_baselines3
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import DummyVecEnv
from test_teacher_student import REPLAY, expert
from tiny import POINT, TINY, unlike

from policykd import DualStudent, PolicyKDError, TeacherStudent
from policykd.export import make_model
from policykd.learners import PPO, TD3
from policykd.learners.config import PPOConfig, SACConfig, TD3Config

QUIET = {**TINY, "n_eval_episodes": 0, "eval_freq": 0}


class Updates(BaseCallback):
    """The number of gradient steps after every step of the environments."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def _on_step(self):
        recipe = getattr(self.model, "recipe", None)
        self.seen.append((self.model.num_timesteps, self.model._n_updates if recipe is None else recipe.n_updates))
        return True


@pytest.mark.parametrize(
    ("backbone", "n_envs", "train_freq", "gradient_steps"),
    [("td3", 1, 1, 1), ("sac", 3, 1, 1), ("sac", 3, 2, 4), ("td3", 4, 2, -1)],
)
def test_gradient_steps_come_when_sb3s_do(backbone, n_envs, train_freq, gradient_steps):
    changes = {"n_envs": n_envs, "train_freq": train_freq, "gradient_steps": gradient_steps}
    changes |= {"learning_starts": 20, "batch_size": 8, "distill_batch_size": 8, "buffer_size": 200, "net_arch": (8,)}
    ours, theirs = Updates(), Updates()
    agent = DualStudent(POINT, backbone=backbone, method="independent", peers=1, config={**QUIET, **changes})
    agent.learn(72, callback=ours)
    config = {"td3": TD3Config, "sac": SACConfig}[backbone](**changes)
    model = make_model(backbone, config, DummyVecEnv([lambda: gym.make(POINT)] * n_envs), seed=0)
    assert isinstance(model, getattr(stable_baselines3, backbone.upper()))
    model.learn(72, callback=theirs)
    assert ours.seen == theirs.seen
    assert ours.seen[-1][1] > 0


def test_how_many_gradient_steps_a_run_will_have_is_known_before_it():
    """Of that depends whether compiling pays; in 1,000 environment steps of each learner."""
    td3 = TD3(3, 1, TD3Config(n_envs=4, train_freq=2, gradient_steps=3), [np.random.default_rng(0)])
    assert td3.gradient_steps_in(1_000) == 125 * 3  # an update after every 2 steps of 4 environments
    ppo = PPO(3, 1, PPOConfig(n_steps=100, batch_size=50, n_epochs=5), [np.random.default_rng(0)])
    assert ppo.gradient_steps_in(1_000) == 10 * 5 * 2  # rollouts, epochs, minibatches


def test_every_environment_of_a_learner_goes_its_own_way_and_all_is_remembered():
    agent = DualStudent(POINT, backbone="td3", seeds=(0, 1), config={**QUIET, "n_envs": 3, "buffer_size": 300})
    agent.learn(2 * 3 * 30)
    replay = agent.replay_buffer
    assert (agent.num_timesteps, replay.size) == (180, 90)
    steps = replay.storage[:, :90].view(4, 30, 3, -1)  # learner, time, environment
    states, beyond = steps[..., :4], steps[..., 6:10]
    assert (states[:, 1:] == beyond[:, :-1]).all()  # 30 steps of one episode of 50 each
    starts = states[:, 0].reshape(12, 4)
    assert len({tuple(start.tolist()) for start in starts}) == 12
    actions = steps[:, 29, :, 4:6].reshape(12, 2)
    assert len({tuple(action.tolist()) for action in actions}) == 12  # its own noise each


CASES = {
    "dpd, TD3": lambda: DualStudent(POINT, backbone="td3", config={**QUIET, "n_envs": 3, "gradient_steps": -1}),
    "advice, SAC": lambda: DualStudent(POINT, method="advice", backbone="sac", config={**QUIET, "n_envs": 2}),
    "kickstarting, SAC": lambda: TeacherStudent(
        POINT, expert, method="kickstarting", backbone="sac", config={**REPLAY, "teacher_std": 0.2, "n_envs": 2}
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_many_environments_go_on_exactly(tmp_path, case):
    make, peers = CASES[case], 1 if "kickstarting" in case else 2
    end = 240 * peers
    whole = make().learn(end)
    half = make()
    half.learn(end, callback=lambda local_variables, _: half.num_timesteps < end // 2)
    half.save(tmp_path / "half", include_replay=True)
    again = type(half).load(tmp_path / "half.safetensors", **({"teacher": expert} if peers == 1 else {}))
    again.learn(end - again.num_timesteps)
    assert unlike(tmp_path, whole, again) == []


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"n_envs": 0}, "n_envs=0 must be positive"),
        ({"gradient_steps": 0}, "gradient_steps=0 must be positive, or -1"),
        ({"n_envs": 201}, "n_envs=201 is more than the replay keeps"),
        ({"n_envs": 2, "allocation": "best"}, "n_envs=2 must be 1 with allocation"),
    ],
)
def test_numbers_that_cannot_work_are_one_line(changes, message):
    with pytest.raises(PolicyKDError, match=message) as error:
        DualStudent(POINT, method="dpd_pooled", backbone="td3", config={**QUIET, **changes})
    assert "\n" not in str(error.value)
