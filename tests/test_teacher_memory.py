"""A recurrent teacher acts by its memory, which starts anew with every episode."""

import gymnasium as gym
import numpy as np
import pytest
import torch
from sb3_contrib import RecurrentPPO
from stable_baselines3 import SAC

from policykd import PolicyKDError, Teacher, TeacherStudent
from policykd.distillation.labels import Labels
from policykd.teachers.demonstrations import demonstrate


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


@pytest.mark.parametrize("source", ["zip", "live"])
@pytest.mark.parametrize(
    "options", [{}, {"shared_lstm": True, "enable_critic_lstm": False}, {"enable_critic_lstm": False}]
)
def test_a_recurrent_teacher_has_a_value_where_its_critic_has_no_memory(tmp_path, source, options):
    model, states = recurrent(**options), torch.rand(20, 1)
    model.save(tmp_path / "agent.zip")
    teacher = Teacher.load(tmp_path / "agent.zip" if source == "zip" else model, Remember)
    values = teacher.value(states)
    if options != {"enable_critic_lstm": False}:
        assert values is None
        return
    expected = model.policy.predict_values(states, None, None).squeeze(1).detach()
    assert expected.std() > 1e-3
    np.testing.assert_allclose(values, expected, atol=1e-6)


@pytest.mark.parametrize("method", ["teacher_value_reward", "value_gated"])
def test_a_recurrent_teacher_with_values_teaches_by_them(method):
    config = {"net_arch": (8,), "n_steps": 32, "batch_size": 16, "n_epochs": 1, "n_eval_episodes": 0}
    config |= {"teacher_episodes": 2, "allow_weak_teacher": True, "distill_batch_size": 8}
    students = TeacherStudent(Remember, recurrent(enable_critic_lstm=False), method=method, config=config)
    assert students.learn(128).recipe.n_updates > 0
    with pytest.raises(PolicyKDError, match="it has memory, and values are needed for single states"):
        TeacherStudent(Remember, recurrent(), method=method, config=config)


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
    alone = TeacherStudent.load(tmp_path / "half.safetensors", Remember)
    alone.save(tmp_path / "passed_on", include_replay=True)
    again = TeacherStudent.load(tmp_path / "passed_on.safetensors", Remember, teacher=model)
    again.learn(120 - again.num_timesteps)
    assert torch.equal(again.learner.parameters, whole.learner.parameters)
    assert torch.equal(again.dataset.storage, whole.dataset.storage)


def test_a_recurrent_teacher_labels_no_single_states():
    agent = TeacherStudent(Remember, recurrent(), config=TEACHING)
    with pytest.raises(PolicyKDError, match="has memory"):
        agent.panel.answer(torch.zeros(1, 2, 1))


@pytest.mark.parametrize("asked", [{"method": "value_gated"}, {"config": {**TEACHING, "distill_value_coef": 1.0}}])
def test_why_a_recurrent_teacher_has_no_value_is_said(asked):
    with pytest.raises(PolicyKDError, match="that can be used: it has memory, and values are needed for single"):
        TeacherStudent(Remember, recurrent(), **{"config": TEACHING, **asked})


class Integrator:
    """A controller: it pushes by the sum of what it saw, times a gain that its user may turn, and by its change."""

    def __init__(self, gain=0.4):
        self.gain, self.clock, self.last = gain, 7.0, None

    def reset(self):
        self.clock, self.last = 0.0, np.zeros(1)

    def __call__(self, observation):
        self.clock += self.gain * float(observation[0] + 0.1) + 0.1 * float(observation[0] - self.last[0])
        self.last = observation  # as it was, whatever the environment writes there
        return np.array([np.clip(self.clock, -2, 1)])


def along(observations, starts, own):
    """What one integrator per environment does, begun anew where an episode starts."""
    actions = []
    for seen, begun in zip(observations, starts, strict=True):
        for e in np.flatnonzero(begun):
            own[e].reset()
        actions.append([own[e](row)[0] for e, row in enumerate(seen)])
    return np.array(actions)


@pytest.mark.parametrize("method", ["dagger", "kickstarting"])
def test_a_controller_teaches_what_it_does_in_each_episode(method):
    """Every environment has an integrator of its own; the user's is neither asked nor turned back."""
    extra = {} if method == "dagger" else {"n_steps": 25, "n_epochs": 1, "batch_size": 25}
    controller = Integrator()
    agent = TeacherStudent(Remember, controller, method=method, seeds=(0, 4), config={**TEACHING, **extra})
    controller.gain = 100.0
    asked, seen, starts, said, answers = [], [], [], [], agent.tutor.answers

    def noted():
        packed = answers()
        full = [env.get_wrapper_attr("full_observation") for env in agent.envs.envs]
        if not asked or asked[-1] is not agent.collector.observations:
            asked.append(agent.collector.observations)
            seen.append(np.stack(full))
            starts.append(agent.collector.starts.copy())
            said.append(packed.clone().view(4, -1)[:, 0].clamp(-1, 1).numpy() * 1.5 - 0.5)
        return packed

    agent.tutor.answers = noted
    agent.learn(100)
    wanted = along(seen, starts, [Integrator() for _ in range(4)])
    np.testing.assert_allclose(said, wanted, atol=1e-5)
    assert np.sum(starts) > 8 and controller.clock == 7.0


def test_a_controller_acts_and_is_scored_from_the_start_of_every_episode():
    teacher, own = Teacher.load(Integrator(), Remember), [Integrator(), Integrator()]
    assert teacher.remembers
    observations = np.random.default_rng(0).uniform(-1, 1, (6, 2, 1)).astype(np.float32)
    starts, state = np.arange(12).reshape(6, 2) % 5 == 0, None
    starts[0] = True
    wanted = along(observations, starts, own)
    buffer = np.zeros((2, 1), np.float32)  # which an environment may write into
    for t in range(6):
        before, buffer[:] = state, observations[t]
        actions, state = teacher.predict(buffer, state=before, episode_start=starts[t])
        np.testing.assert_allclose(actions[:, 0], wanted[t], atol=1e-5)
        again, _ = teacher.predict(buffer, state=before, episode_start=starts[t])
        np.testing.assert_array_equal(again, actions)  # the state that was handed in is as it was
    one, two = (demonstrate(source, Remember, 3) for source in (teacher, Integrator()))
    np.testing.assert_allclose(one.actions, two.actions, atol=1e-6)


class Predicts:
    """A planner whose ``predict`` returns the action alone."""

    def reset(self):
        self.inner = Integrator()
        self.inner.reset()

    def predict(self, observation, deterministic=True):
        return self.inner(observation)


def test_a_controller_may_say_its_action_by_a_predict_without_a_state_beside_it():
    called, asked = (Teacher.load(own, Remember).score(Remember, 2, seed=0) for own in (Integrator(), Predicts()))
    assert np.array_equal(called.returns, asked.returns)


class Nested(Integrator):
    """Its state lies in an object of its own."""

    def __init__(self):
        super().__init__()
        self.inner = Integrator()

    def reset(self):
        self.inner.reset()

    def __call__(self, observation):
        return self.inner(observation)


def test_a_student_of_a_controller_goes_on_exactly_where_its_state_is_plain(tmp_path, caplog):
    def agent(controller):
        return TeacherStudent(Remember, controller, seeds=(0, 4), config=TEACHING)

    whole, half = agent(Integrator()).learn(80), agent(Integrator())
    half.learn(80, callback=lambda local_variables, _: half.num_timesteps < 46)
    half.save(tmp_path / "half", include_replay=True)
    again = TeacherStudent.load(tmp_path / "half.safetensors", Remember, teacher=Integrator())
    again.learn(80 - again.num_timesteps)
    assert torch.equal(again.learner.parameters, whole.learner.parameters)
    assert torch.equal(again.dataset.storage, whole.dataset.storage)
    assert "keeps state that cannot be saved" not in caplog.text
    agent(Nested()).learn(20).save(tmp_path / "nested", include_replay=True)
    TeacherStudent.load(tmp_path / "nested.safetensors", Remember, teacher=Nested())
    assert "controller Nested keeps state that cannot be saved" in caplog.text


def test_a_teacher_that_was_asked_already_remembers_the_state_once_when_the_run_goes_on(tmp_path):
    """N-distill asks at the state after a rollout, in the middle of an episode, and again when it steps from there."""
    config = {"net_arch": (8,), "n_envs": 2, "n_steps": 12, "batch_size": 12, "n_epochs": 2, "n_eval_episodes": 0}
    config |= {"teacher_episodes": 3, "allow_weak_teacher": True, "teacher_std": 0.2}
    whole, half = (TeacherStudent(Remember, Integrator(), method="n_distill", config=config).learn(24) for _ in "12")
    half.save(tmp_path / "half", include_replay=True)
    again = TeacherStudent.load(tmp_path / "half", Remember, teacher=Integrator())
    for agent in (whole, again):
        agent.learn(24)
    assert torch.equal(again.learner.parameters, whole.learner.parameters)


def test_learning_from_logged_episodes_asks_whoever_remembers_along_them():
    data = demonstrate(Integrator(), Remember, 3)
    learnt = TeacherStudent(Remember, Integrator(), config=TEACHING).learn_from(data, 1)
    labels = Labels.unpack(learnt.dataset.storage[:, :30, TEACHING["history"] :])
    np.testing.assert_allclose(labels.policy.actions[0], data.actions, atol=1e-6)
    kept = np.r_[:15, 20:30]  # the second episode is cut short
    uneven = {"observations": data.observations[kept], "episodes": data.episodes[kept]}
    learnt = TeacherStudent(Remember, Integrator(), config=TEACHING).learn_from(uneven, 1)
    labels = Labels.unpack(learnt.dataset.storage[:, :25, TEACHING["history"] :])
    np.testing.assert_allclose(labels.policy.actions[0], data.actions[kept], atol=1e-6)
    with pytest.raises(PolicyKDError, match="a mapping does not say which states form an episode"):
        learnt.learn_from({"observations": data.observations}, 1)


class Needs(Integrator):
    """Its reset needs to be told something."""

    def reset(self, goal):
        self.goal = goal


def waiting(observation):
    return np.zeros(1)


waiting.reset = lambda: None


@pytest.mark.parametrize(
    ("controller", "said"),
    [
        (Needs(), "controller Needs cannot begin an episode .TypeError"),
        (waiting, "controller waiting is a function or class, whose copies share state"),
        (Integrator, "controller Integrator is a function or class"),
    ],
)
def test_what_cannot_be_begun_for_every_environment_is_one_line(controller, said):
    with pytest.raises(PolicyKDError, match=said) as caught:
        Teacher.load(controller, Remember)
    assert "\n" not in str(caught.value)


def test_an_unusual_lstm_is_refused():
    model = recurrent(lstm_kwargs={"bidirectional": False, "bias": False})
    with pytest.raises(PolicyKDError, match="unusual LSTM"):
        Teacher.load(model, Remember)


def test_an_agent_that_a_controller_asks_is_not_copied_at_every_step():
    class Follows:
        def __init__(self):
            self.agent, self.steps = SAC("MlpPolicy", "Pendulum-v1", buffer_size=10, device="cpu"), 0

        def __call__(self, observation):
            self.steps += 1
            return self.agent.predict(observation, deterministic=True)[0]

        def reset(self):
            self.steps = 0

    teacher, own = Teacher.load(controller := Follows(), "Pendulum-v1"), []
    memory = None
    for step in range(2):
        *_, memory = teacher.step(torch.zeros(2, 3), memory, torch.full((2,), float(step == 0)))
        own.append(memory)
    assert [[one.steps for one in memory] for memory in own] == [[1, 1], [2, 2]] and controller.steps == 0
    assert {id(one.agent) for memory in own for one in memory} == {id(controller.agent)}
