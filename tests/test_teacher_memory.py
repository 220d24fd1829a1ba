"""A recurrent teacher acts by its memory, which starts anew with every episode."""

import gymnasium as gym
import numpy as np
import pytest
import torch
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


TEACHING = {"net_arch": (8,), "n_envs": 2, "round_steps": 20, "round_updates": 5, "n_eval_episodes": 1, "history": 10}
TEACHING |= {"teacher_episodes": 3, "allow_weak_teacher": True, "dataset_size": 500, "distill_batch_size": 16}


@pytest.mark.parametrize("method", ["dagger", "kickstarting"])
def test_a_recurrent_teacher_teaches_what_it_says_in_each_episode(method):
    """The labels are those of SB3's predict, with its state kept per environment and reset at episode starts."""
    model = recurrent()
    extra = {} if method == "dagger" else {"n_steps": 25, "n_epochs": 1, "batch_size": 25}
    config = {**TEACHING, **extra, "teacher_observations": (0,)}
    agent = TeacherStudent(Remember, model, method=method, seeds=(0, 4), config=config)
    asked, answers = [], agent.tutor.answers
    steps = []

    def noted():
        packed = answers()
        full = [env.get_wrapper_attr("full_observation") for env in agent.envs.envs]
        if not asked or asked[-1] is not agent.collector.observations:
            asked.append(agent.collector.observations)
            steps.append((np.stack(full), agent.collector.starts.copy(), packed.clone().view(4, -1)))
        return packed

    agent.tutor.answers = noted
    agent.learn(100)
    state = None
    for observations, starts, packed in steps:
        wanted, state = model.predict(observations, state=state, episode_start=starts, deterministic=True)
        np.testing.assert_allclose(packed[:, 0].clamp(-1, 1) * 1.5 - 0.5, wanted[:, 0], atol=1e-5)
    assert sum(starts.sum() for _, starts, _ in steps) > 8
    assert len({tuple(starts) for _, starts, _ in steps}) > 1


def test_a_student_of_a_recurrent_teacher_goes_on_exactly(tmp_path):
    model = recurrent()

    def agent():
        return TeacherStudent(Remember, model, seeds=(0, 4), config=TEACHING)

    whole, half = agent().learn(120), agent()
    half.learn(120, callback=lambda local_variables, _: half.num_timesteps < 66)
    half.save(tmp_path / "half", include_replay=True)
    again = TeacherStudent.load(tmp_path / "half.safetensors", Remember, teacher=model)
    again.learn(120 - again.num_timesteps)
    assert torch.equal(again.learner.parameters, whole.learner.parameters)
    assert torch.equal(again.dataset.storage, whole.dataset.storage)


def test_a_recurrent_teacher_labels_no_single_states():
    agent = TeacherStudent(Remember, recurrent(), config=TEACHING)
    with pytest.raises(PolicyKDError, match="remembers its episode"):
        agent.panel.answer(torch.zeros(1, 2, 1))


def test_an_unusual_lstm_is_refused():
    model = recurrent(lstm_kwargs={"bidirectional": False, "bias": False})
    with pytest.raises(PolicyKDError, match="unusual LSTM"):
        Teacher.load(model, Remember)
