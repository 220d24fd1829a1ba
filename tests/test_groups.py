"""Dicts of observations and named groups: one rule, everywhere the same."""

import sys

import gymnasium as gym
import numpy as np
import pytest
import sb3_contrib
import stable_baselines3
import torch
from gymnasium import spaces
from gymnasium.envs.registration import EnvSpec
from policykd_envs.wrappers import SelectObservation
from sb3_agents import agent
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize
from tiny import POINT, TINY

from policykd import DualStudent, TeacherStudent
from policykd.cli import distill_run, main
from policykd.core.errors import PolicyKDError
from policykd.export import zoo_settings
from policykd.export.hub import to_hub_folder
from policykd.export.zoo import to_zip
from policykd.measure.doctor import diagnose
from policykd.tasks.env_state import get_env_state, set_env_state, unsaved_state
from policykd.tasks.groups import columns_of, flatten, groups_of, unflatten
from policykd.tasks.spaces import find_task
from policykd.teachers import Teacher

SMALL = {"net_arch": (8,), "n_envs": 2, "round_steps": 20, "round_updates": 2, "distill_batch_size": 8}
SMALL |= {"dataset_size": 500, "n_eval_episodes": 1, "teacher_episodes": 2, "allow_weak_teacher": True}
SPACE = spaces.Dict(
    {
        "robot": spaces.Dict({"joints": spaces.Box(-1, 1, (2, 2)), "gait": spaces.Discrete(3, start=5)}),
        "goal": spaces.Box(-2, 2, (2,)),
        "lights": spaces.MultiBinary(2),
        "modes": spaces.MultiDiscrete([2, 3]),
    }
)


class Goal(gym.Env):
    """PointReach as a task of goals: observations are dicts, position and vector to the goal apart."""

    observation_space = spaces.Dict({"way": spaces.Box(-2, 2, (2,)), "place": spaces.Box(-1, 1, (2,))})
    action_space = spaces.Box(-1, 1, (2,))

    def __init__(self):
        self.task = gym.make(POINT)

    def reset(self, *, seed=None, options=None):
        observation, info = self.task.reset(seed=seed)
        return self._parts(observation), info

    def step(self, action):
        observation, *rest = self.task.step(action)
        return self._parts(observation), *rest

    def _parts(self, observation):
        return {"place": observation[:2], "way": observation[2:]}


def towards(observation):
    return np.clip(10 * observation[..., 2:], -1, 1)


def test_dicts_are_laid_out_as_gymnasium_does():
    SPACE.seed(0)
    samples = [SPACE.sample() for _ in range(5)]
    expected = np.stack([spaces.flatten(SPACE, sample) for sample in samples])
    np.testing.assert_array_equal(np.stack([flatten(SPACE, sample) for sample in samples]), expected)
    back = unflatten(SPACE, expected)
    np.testing.assert_array_equal(flatten(SPACE, back), expected)
    np.testing.assert_array_equal(back["robot"]["gait"], [sample["robot"]["gait"] for sample in samples])
    with pytest.raises(ValueError, match="has no group robot/joints"):
        flatten(SPACE, {**samples[0], "robot": {"gait": 5}})
    with pytest.raises(ValueError, match=r"group goal has shape \(3,\)"):
        flatten(SPACE, {**samples[0], "goal": np.zeros(3)})


def test_a_task_names_its_groups():
    env = find_task(Goal).make()
    assert env.observation_space.shape == (4,)
    assert groups_of(env) == {"place": (0, 1), "way": (2, 3)}
    cheetah = groups_of(find_task("HalfCheetah-v5").make())
    assert cheetah["qpos"] == tuple(range(8))
    assert cheetah["qvel"] == tuple(range(8, 17))
    assert groups_of(find_task(POINT).make()) == {}
    groups = {"robot/joints": (0, 1), "robot/gait": (2,), "goal": (3,)}
    assert columns_of("x", ["goal", "robot", 1], groups) == (3, 0, 1, 2, 1)
    with pytest.raises(PolicyKDError, match="no observation group 'gaol'; nearest: goal"):
        columns_of("x", ["gaol"], groups)


def test_agents_train_and_act_on_dicts():
    agent = DualStudent(Goal, backbone="td3", config={**TINY, "n_eval_episodes": 1})
    agent.learn(60)
    observation, _ = Goal().reset(seed=0)
    flat = np.concatenate([observation["place"], observation["way"]])
    np.testing.assert_array_equal(agent.predict(observation)[0], agent.predict(flat)[0])
    many = {name: np.stack([part, part]) for name, part in observation.items()}
    assert agent.predict(many)[0].shape == (2, 2)
    with pytest.raises(PolicyKDError, match="predict: the observation has no group way"):
        agent.predict({"place": observation["place"]})
    with pytest.raises(PolicyKDError, match="have 4 numbers, got an array of shape"):
        agent.predict(np.zeros((2, 3)))


@pytest.mark.parametrize(
    "choice", ["way", ("way",), (2, 3), lambda o: o[:, 2:]], ids=["name", "names", "columns", "function"]
)
def test_a_student_takes_the_whole_observation_and_picks_its_part(choice):
    agent = TeacherStudent(Goal, lambda o: towards(o), config={**SMALL, "student_observations": choice}).learn(80)
    assert agent.observation_space.shape == (2,)
    rows = np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32)
    picked = agent.predict(rows[:, 2:])[0]
    np.testing.assert_array_equal(agent.predict(rows)[0], picked)
    np.testing.assert_array_equal(agent.predict({"place": rows[:, :2], "way": rows[:, 2:]})[0], picked)
    np.testing.assert_array_equal(agent.predict(rows[0])[0], picked[0])
    mean, _ = evaluate_policy(agent, DummyVecEnv([Goal]), 2, warn=False)
    own, _ = evaluate_policy(agent, DummyVecEnv([agent.factory]), 2, warn=False)
    assert -150 < mean < 0
    assert -150 < own < 0


def test_columns_of_a_vector_get_names(tmp_path):
    named = {**SMALL, "observation_groups": {"way": (2, 3), "place": [0, 1]}}
    agent = TeacherStudent(POINT, towards, config={**named, "student_observations": "way"}).learn(40)
    assert agent.view.columns == (2, 3)
    agent.save(tmp_path / "student")
    again = TeacherStudent.load(tmp_path / "student.safetensors")
    assert again.config == agent.config
    rows = np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32)
    np.testing.assert_array_equal(again.predict(rows)[0], agent.predict(rows)[0])
    teacher = Teacher.load(tmp_path / "student.safetensors", POINT)
    np.testing.assert_allclose(teacher.predict(rows)[0], agent.predict(rows)[0], atol=1e-6)
    live = Teacher.load(agent, POINT)
    np.testing.assert_allclose(live.predict(rows)[0], agent.predict(rows)[0], atol=1e-6)
    with pytest.raises(
        PolicyKDError,
        match="student_observations: there is no observation group 'legs'; nearest: place; there are way",
    ):
        TeacherStudent(POINT, towards, config={**named, "student_observations": "legs"})
    with pytest.raises(PolicyKDError, match="the task has no named groups: set observation_groups"):
        TeacherStudent(POINT, towards, config={**SMALL, "student_observations": ("legs",)})


def test_groups_of_a_task_are_not_those_of_a_wrapper_that_moves_its_columns():
    class Named(gym.Wrapper):
        observation_groups = {"place": (0, 1), "way": (2, 3)}  # noqa: RUF012 - as an attribute of a task is

    named = Named(gym.make(POINT))
    same = gym.wrappers.RescaleObservation(named, np.float32(-1), np.float32(1))
    assert groups_of(same) == groups_of(gym.wrappers.ReshapeObservation(named, (2, 2))) == named.observation_groups
    assert groups_of(SelectObservation(named, (2, 3, 0))) == {}
    with pytest.raises(PolicyKDError, match="the task has no named groups: set observation_groups"):
        TeacherStudent(
            lambda: SelectObservation(Named(gym.make(POINT)), (2, 3, 0)),
            None,
            config={**SMALL, "student_observations": "place"},
        )


@pytest.mark.parametrize("choice", [("way",), (2, 3), lambda o: o[:, 2:]], ids=["names", "columns", "function"])
def test_the_teacher_reads_its_own_groups(choice):
    config = {**SMALL, "teacher_observations": choice, "student_observations": ("place",)}
    agent = TeacherStudent(Goal, lambda way: np.clip(10 * way, -1, 1), config=config)
    rows = torch.randn(1, 5, 4)
    answers = agent.panel.answer(rows)[0, :, :2]
    torch.testing.assert_close(answers, (10 * rows[0, :, 2:]).clamp(-1, 1))


def test_a_function_that_makes_no_rows_is_refused():
    for function, said in (
        (lambda o: o[:, :0], r"must return a tensor \(B, P\)"),
        (lambda o: o.sum(), r"must return a tensor \(B, P\) for observations \(B, 4\), got \(\)"),
        (lambda o: o[:, 9], "the function fails on observations"),
    ):
        with pytest.raises(PolicyKDError, match=f"student_observations: .*{said}|{said}"):
            TeacherStudent(POINT, towards, config={**SMALL, "student_observations": function})


class Mixed(gym.Env):
    """A dict of unlike groups."""

    observation_space = spaces.Dict(
        {"b": spaces.Box(-np.inf, np.inf, (3,)), "a": spaces.Box(-1, 1, (2,)), "m": spaces.Discrete(3)}
    )
    action_space = spaces.Box(np.array([-2.0, -1.0], np.float32), np.array([0.5, 3.0], np.float32))

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.observation_space.seed(seed)
        return self.observation_space.sample(), {}

    def step(self, action):
        return self.observation_space.sample(), 0.0, False, False, {}


KINDS = {
    "PPO": stable_baselines3.PPO,
    "SAC": stable_baselines3.SAC,
    "TD3": stable_baselines3.TD3,
    "TQC": sb3_contrib.TQC,
    "RecurrentPPO": sb3_contrib.RecurrentPPO,
}


@pytest.mark.parametrize("algorithm", KINDS)
def test_a_multi_input_teacher_acts_exactly_as_its_predict(algorithm, tmp_path):
    recurrent = algorithm == "RecurrentPPO"
    policy = "MultiInputLstmPolicy" if recurrent else "MultiInputPolicy"
    options = {"net_arch": [6], **({"lstm_hidden_size": 4} if recurrent else {})}
    model = KINDS[algorithm](policy, Mixed(), policy_kwargs=options, seed=0, device="cpu")
    model.save(tmp_path / "agent.zip")
    env = Mixed()
    rows = [env.reset(seed=seed)[0] for seed in range(4)]
    many = {name: np.stack([row[name] for row in rows]) for name in rows[0]}
    expected = model.predict(many, deterministic=True)[0]
    for source in (tmp_path / "agent.zip", model):
        teacher = Teacher.load(source, Mixed, vecnormalize=False)
        np.testing.assert_allclose(teacher.predict(many)[0], expected, atol=1e-5)
        np.testing.assert_allclose(teacher.predict(rows[0])[0], expected[0], atol=1e-5)
        assert (teacher.value(torch.zeros(2, 8)) is None) == recurrent


def test_a_multi_input_teacher_finds_its_groups_among_others():
    class Wider(Mixed):
        observation_space = spaces.Dict(
            [("z", spaces.Box(0, 1, (2,))), *reversed(list(Mixed.observation_space.items()))]
        )

    model = stable_baselines3.PPO("MultiInputPolicy", Mixed(), policy_kwargs={"net_arch": [6]}, device="cpu")
    teacher = Teacher.load(model, Wider, vecnormalize=False)
    observation = Wider().reset(seed=3)[0]
    known = {name: observation[name] for name in ("a", "b", "m")}
    expected = model.predict(known, deterministic=True)[0]
    np.testing.assert_allclose(teacher.predict(observation)[0], expected, atol=1e-5)


def test_a_multi_input_teacher_keeps_its_normaliser(tmp_path):
    env = VecNormalize(DummyVecEnv([Goal]))
    model = stable_baselines3.PPO("MultiInputPolicy", env, policy_kwargs={"net_arch": [6]}, device="cpu", n_steps=64)
    model.learn(64)
    model.save(tmp_path / "agent.zip")
    env.save(str(tmp_path / "vecnormalize.pkl"))
    observation = {name: part[None] for name, part in Goal().reset(seed=1)[0].items()}
    expected = model.predict(env.normalize_obs(observation), deterministic=True)[0]
    for source in (tmp_path / "agent.zip", model):
        np.testing.assert_allclose(Teacher.load(source, Goal).predict(observation)[0], expected, atol=1e-5)


class Axes(Goal):
    """The same task with a group of two axes and float64, and groups in an order of their own."""

    observation_space = spaces.Dict(
        [("way", spaces.Box(-2, 2, (2, 1), np.float64)), ("place", spaces.Box(-np.inf, np.inf, (2,)))]
    )

    def _parts(self, observation):
        return {"place": observation[:2], "way": observation[2:, None].astype(np.float64)}


def dicts(env, n=5):
    rows = [env().reset(seed=seed)[0] for seed in range(n)]
    return {name: np.stack([row[name] for row in rows]) for name in rows[0]}


@pytest.mark.parametrize("backbone", ["ppo", "sac", "td3", "ddpg"])
@pytest.mark.parametrize("task", [Goal, Axes])
def test_an_agent_on_dicts_leaves_as_sb3s_multi_input_policy(backbone, task, tmp_path, caplog):
    own = {"n_steps": 16, "batch_size": 16, "normalize_observation": True, "net_arch": (8,), "n_eval_episodes": 0}
    config = own if backbone == "ppo" else TINY
    agent, many = DualStudent(task, backbone=backbone, config=config).learn(64), dicts(task)
    expected = agent.predict(many, learner=1)[0]
    model = agent.to_sb3(1)
    assert isinstance(model.policy, type(model).policy_aliases["MultiInputPolicy"])
    assert model.observation_space == task.observation_space
    to_zip(agent, 1, tmp_path / "agent.zip")
    assert zoo_settings(agent, 1)["config.yml"].count("MultiInputPolicy") == 1
    assert "Flatten" not in zoo_settings(agent, 1)["config.yml"]
    loaded, seen = type(model).load(tmp_path / "agent.zip", env=task()), many
    if backbone == "ppo":
        env = VecNormalize.load(tmp_path / "agent" / "vecnormalize.pkl", DummyVecEnv([task]))
        seen = env.normalize_obs(many)
    for each in (model, loaded):
        np.testing.assert_allclose(each.predict(seen, deterministic=True)[0], expected, atol=1e-5)
    caplog.clear()
    for source in (model, tmp_path / "agent.zip"):
        np.testing.assert_allclose(Teacher.load(source, task).predict(many)[0], expected, atol=1e-5)
    best = agent.predict(many)[0]
    np.testing.assert_allclose(Teacher.load(agent, task).predict(many)[0], best, atol=1e-5)
    assert not caplog.records
    assert model.learn(40, reset_num_timesteps=False).num_timesteps >= 40


def test_what_sb3_would_lay_out_otherwise_leaves_as_vectors(tmp_path):
    class Dotted(Goal):
        observation_space = spaces.Dict({"way.x": spaces.Box(-2, 2, (2,)), "type": spaces.Box(-1, 1, (2,))})

        def _parts(self, observation):
            return {"type": observation[:2], "way.x": observation[2:]}

    for task in (Dotted, Mixed):
        agent = DualStudent(task, backbone="td3", config=TINY)
        model = agent.to_sb3(0)
        size = agent.observation_space.shape[0]
        assert model.observation_space.shape == (size,) and "Flatten" in zoo_settings(agent, 0)["config.yml"]
        to_zip(agent, 0, tmp_path / f"{task.__name__}.zip")
    student = TeacherStudent(Goal, towards, config={**SMALL, "student_observations": "way"})
    assert student.to_sb3(0).observation_space.shape == (2,)


def test_a_task_of_dicts_goes_on_exactly():
    class Own(Mixed):
        def __init__(self):
            self.observation_space = spaces.Dict({"a": spaces.Box(-1, 1, (2,)), "m": spaces.Discrete(3)})

    saved, other = find_task(Own).make(), find_task(Own).make()
    saved.reset(seed=3)
    saved.step(np.zeros(2))
    assert unsaved_state(saved) == []
    other.reset(seed=8)
    set_env_state(other, get_env_state(saved))
    for _ in range(3):
        np.testing.assert_array_equal(saved.step(np.zeros(2))[0], other.step(np.zeros(2))[0])


def test_distill_and_doctor_take_teachers_that_read_a_part(tmp_path, monkeypatch):
    agent("PPO", SelectObservation(gym.make(POINT), (2, 3))).save(tmp_path / "part.zip")
    seen = {"observation_groups": {"gap": (2, 3)}, "teacher_observations": "gap"}
    begun = []
    monkeypatch.setattr(distill_run, "_train", lambda *given: begun.append(given[2]) or sys.exit())
    with pytest.raises(SystemExit):
        main(["distill", "--teacher", str(tmp_path / "part.zip"), "--env", POINT, "--teacher-observations", "2", "3"])
    (teacher,) = TeacherStudent(POINT, begun[0], config={**SMALL, **seen}).panel.teachers
    page = str(diagnose(tmp_path / "part.zip", POINT, **seen, n_episodes=4, updates=0))
    assert teacher.observation_size == 4 and "sees all 4 observations" in page


def test_a_hub_folder_of_a_task_of_dicts_has_a_replay(tmp_path, monkeypatch):
    monkeypatch.setitem(gym.registry, "Goal-v0", EnvSpec("Goal-v0", Goal, max_episode_steps=5))
    config = {"net_arch": (8,), "student_observations": "way", "history": 2, "n_eval_episodes": 0}
    student, done = TeacherStudent("Goal-v0", towards, config=config, compile=False), []

    def record(env_id, policy, path, *, seed):
        env = gym.make(env_id)
        seen, _ = env.reset(seed=seed)
        for _ in range(3):
            done.append((seen, policy(seen)))
            seen = env.step(done[-1][1])[0]

    to_hub_folder(student, 0, tmp_path / "hub", n_eval_episodes=1, record=record)
    play = student.player(0)
    for seen, action in done:
        np.testing.assert_allclose(action, play(seen), atol=1e-5)
