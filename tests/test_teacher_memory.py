"""A recurrent teacher acts by its memory, which starts anew with every episode."""

import gymnasium as gym
import numpy as np
import pytest
from sb3_contrib import RecurrentPPO

from policykd import PolicyKDError, Teacher, TeacherStudent


class Remember(gym.Env):
    """What was seen at the first step must be done for ever after: only memory solves it."""

    observation_space = gym.spaces.Box(-1, 1, (1,), np.float32)
    action_space = gym.spaces.Box(-2, 1, (1,), np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.goal, self.steps = float(self.np_random.choice([-1, 1])), 0
        return np.array([self.goal], np.float32), {}

    def step(self, action):
        self.steps += 1
        return np.zeros(1, np.float32), 1 - abs(float(action[0]) - self.goal), False, self.steps >= 10, {}


def recurrent(**options):
    options = {"lstm_hidden_size": 8, "net_arch": [4], **options}
    model = RecurrentPPO("MlpLstmPolicy", Remember(), n_steps=8, seed=0, device="cpu", policy_kwargs=options)
    model.policy.action_net.weight.data.mul_(30)
    return model


@pytest.mark.parametrize("source", ["zip", "live"])
@pytest.mark.parametrize(
    "options",
    [{}, {"n_lstm_layers": 2}, {"shared_lstm": True, "enable_critic_lstm": False}, {"enable_critic_lstm": False}],
)
def test_a_recurrent_teacher_is_its_agent_step_by_step(tmp_path, source, options):
    model = recurrent(**options)
    model.save(tmp_path / "agent.zip")
    teacher = Teacher.load(tmp_path / "agent.zip" if source == "zip" else model, Remember)
    assert teacher.remembers
    generator, state, mine = np.random.default_rng(0), None, None
    starts = np.ones(3, bool)
    for _ in range(6):
        inputs = generator.uniform(-1, 1, (3, 1)).astype(np.float32)
        wanted, state = model.predict(inputs, state=state, episode_start=starts, deterministic=True)
        actions, mine = teacher.predict(inputs, state=mine, episode_start=starts)
        np.testing.assert_allclose(actions, wanted, atol=1e-5)
        starts = generator.random(3) < 0.3


def test_the_memory_counts_and_a_score_keeps_it():
    model = recurrent()
    teacher = Teacher.load(model, Remember)
    returns = []
    for episode in range(3):
        env, state = Remember(), None
        from policykd.core.seeding import env_seed

        observation, _ = env.reset(seed=env_seed(env_seed(0, episode, "evaluation"), 0, "evaluation", 0, 0))
        total, done = 0.0, False
        while not done:
            action, state = model.predict(observation, state=state, deterministic=True)
            observation, reward, _, done, _ = env.step(action)
            total += reward
        returns.append(total)
    np.testing.assert_allclose(teacher.score(Remember, 3, 0).returns, returns, atol=1e-4)
    forgetful = [sum(teacher.predict(np.zeros((1, 1), np.float32))[0]) for _ in range(2)]
    assert np.array_equal(*forgetful)


def test_single_states_are_not_labelled_without_a_memory():
    teacher = Teacher.load(recurrent(), Remember)
    with pytest.raises(PolicyKDError, match="remembers its episode"):
        TeacherStudent(Remember, teacher)


def test_an_unusual_lstm_is_refused():
    model = recurrent(lstm_kwargs={"bidirectional": False, "bias": False})
    with pytest.raises(PolicyKDError, match="unusual LSTM"):
        Teacher.load(model, Remember)
