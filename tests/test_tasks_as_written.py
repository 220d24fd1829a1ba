"""Tasks as people write them: what works, and what is refused in one line that helps."""

import logging
import re

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from gymnasium.envs.classic_control.pendulum import PendulumEnv
from gymnasium.spaces import Box
from gymnasium.wrappers import ClipAction, FlattenObservation, NormalizeObservation, NormalizeReward, TransformAction
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv
from tiny import POINT, TINY, differences

from policykd import DualStudent, PolicyKDError, Teacher, TeacherStudent
from policykd.benchmark.random_actions import random_returns
from policykd.export import deploy
from policykd.tasks import evaluate
from policykd.tasks.contract import note_success
from policykd.tasks.spaces import ActionScale
from policykd.teachers.demonstrations import demonstrate

PPO = {"net_arch": (8, 8), "n_steps": 32, "batch_size": 8, "n_epochs": 1, "distill_batch_size": 8, "n_eval_episodes": 1}
SMALL = {"ppo": {**PPO, "eval_freq": 0}, "td3": {**TINY, "eval_freq": 0}}


class Ten(gym.Env):
    """Ten steps of the numbers 0 to 10, and asserts that its actions are in its space."""

    def __init__(self, actions=None, observations=None):
        self.action_space = Box(-1, 1, (1,)) if actions is None else actions
        self.observation_space = Box(-100, 100, (2,)) if observations is None else observations

    def observe(self):
        return np.full(self.observation_space.shape, self.t, self.observation_space.dtype)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t = 0
        return self.observe(), {}

    def step(self, action):
        assert self.action_space.contains(np.asarray(action)), f"{action!r} is not in {self.action_space}"
        self.t += 1
        return self.observe(), 1.0, False, self.t >= 10, {}


def learn(make, backbone="td3", steps=80, **options):
    return DualStudent(make, backbone=backbone, config=SMALL[backbone], **options).learn(steps)


def refusal(make, **options):
    with pytest.raises(PolicyKDError) as error:
        learn(make, **options)
    assert "\n" not in str(error.value)
    return str(error.value)


# Endless episodes


class Endless(PendulumEnv):
    """Pendulum without its TimeLimit."""


@pytest.fixture
def short_limit(monkeypatch):
    monkeypatch.setattr(evaluate, "EPISODE_LIMIT", 30)
    evaluate._warn_endless.cache_clear()


def test_an_endless_episode_counts_up_to_a_limit_and_says_so_once(short_limit, caplog):
    agent = learn(Endless)
    assert (agent.evaluations[-1].lengths == 30).all()
    agent.evaluate(2)
    assert caplog.text.count("an episode of Endless did not end within 30 steps") == 1


def test_random_actions_and_demonstrations_of_an_endless_task_end(short_limit, caplog):
    gym.register("EndlessPendulum-v0", Endless)
    assert np.isfinite(random_returns("EndlessPendulum-v0", 2, seed=0)).all() and "did not end" in caplog.text
    shown = demonstrate(lambda observation: np.zeros(1), Endless, 2)
    assert np.bincount(shown.episodes).tolist() == [30, 30]


def test_a_teacher_of_an_endless_task_is_scored(short_limit, caplog):
    score = Teacher.load(lambda o: np.zeros(1), env=Endless).score(Endless, 2, 0)
    assert np.isfinite(score.returns).all() and "did not end" in caplog.text
    assert "n_eval_episodes=0" in caplog.text and "a teacher plays teacher_episodes, at least 1" in caplog.text


def test_a_task_with_a_time_limit_has_no_other(short_limit, caplog):
    assert (learn("Pendulum-v1", steps=40).evaluations[-1].lengths == 200).all()
    assert not caplog.text


def test_evaluation_can_be_switched_off(tmp_path):
    config = {**TINY, "n_eval_episodes": 0, "eval_freq": 10}
    agent = DualStudent(Endless, backbone="td3", config=config, run_dir=tmp_path / "run").learn(60)
    assert agent.num_timesteps == 60 and agent.evaluations == []
    assert not list(tmp_path.rglob("best_model.zip"))
    with pytest.raises(PolicyKDError, match="needs at least 1 episode"):
        agent.evaluate()


# One array changed in place


class SameArray(Ten):
    """Hands out one array and one info, and changes both in place."""

    def __init__(self):
        super().__init__()
        self.array, self.info = np.zeros(2, np.float32), {}

    def observe(self):
        self.array[:] = self.t
        return self.array

    def step(self, action):
        observation, reward, ended, cut, _ = super().step(action)
        return observation, reward, ended, cut, self.info


@pytest.mark.parametrize("backbone", ["td3", "ppo"])
def test_a_task_that_changes_one_array_is_learnt_as_one_that_copies(backbone):
    one, copies = (learn(make, backbone) for make in (SameArray, Ten))
    for name, memory in one.memories.items():
        assert not list(differences(memory.state(), copies.memories[name].state()))
    assert (one.learner.actor == copies.learner.actor).all()
    if backbone == "td3":
        last = one.replay_buffer.storage[0][9]  # an episode's last transition
        assert last[:2].tolist() == [9, 9] and last[3:5].tolist() == [10, 10]


# Wrappers that keep a running statistics


@pytest.mark.parametrize(
    ("wrapper", "setting"),
    [(NormalizeObservation, "normalize_observation"), (NormalizeReward, "normalize_reward")],
)
def test_a_moving_scale_in_the_factory_is_refused(wrapper, setting):
    said = refusal(lambda: gym.wrappers.TimeLimit(wrapper(gym.make("Pendulum-v1")), 50))
    assert f"wrapped in {wrapper.__name__}" in said and setting in said
    with pytest.raises(PolicyKDError, match="running statistics"):
        Teacher.load(lambda o: np.zeros(1), env=lambda: wrapper(gym.make("Pendulum-v1")))


def test_a_scale_that_no_longer_moves_is_fine():
    def make():
        env = NormalizeObservation(gym.make("Pendulum-v1"))
        env.update_running_mean = False
        return env

    assert learn(make, steps=40).num_timesteps == 40


# Actions


def advised(make, said):
    """The task in the wrapper that an error line advises, run as it stands there."""
    code = re.search("`(.*)`", said)[1]
    known = {"np": np, "Box": Box, "TransformAction": TransformAction, "FlattenObservation": FlattenObservation}
    return lambda: eval(code, {**known, "env": make()})


UNBOUNDED = Box(-np.inf, np.inf, (2,))


@pytest.mark.parametrize(
    "space",
    [
        UNBOUNDED,
        Box(np.array([-1, -np.inf], np.float32), np.array([1, 1], np.float32)),
        Box(np.finfo(np.float32).min, np.finfo(np.float32).max, (1,)),
        Box(-3, 3, (2,), np.int64),
        Box(-1, 1, (2, 3)),
        Box(-0.1, 0.1, (2, 2), np.float64),
        Box(-1, 1, ()),
    ],
    ids=str,
)
@pytest.mark.parametrize("backbone", ["td3", "ppo"])
def test_actions_of_another_kind_are_refused_with_a_wrapper_that_works(space, backbone):
    def make():
        return Ten(space)

    agent = learn(advised(make, refusal(make)), backbone)
    assert len(agent.run.episodes[0]) > 0


@pytest.mark.parametrize(
    "space",
    [Box(-1, 1, ()), Box(0, 255, (4, 4, 3), np.uint8), spaces.Tuple([Box(-1, 1, (2,))]), spaces.Discrete(3)],
    ids=str,
)
def test_observations_of_another_kind_are_refused_with_a_wrapper_that_works(space):
    class Other(Ten):
        def observe(self):
            return self.observation_space.sample()

    def make():
        return Other(observations=space)

    assert learn(advised(make, refusal(make))).num_timesteps == 80


@pytest.mark.parametrize(
    ("space", "said"),
    [
        (spaces.Sequence(Box(-1, 1, (2,))), "observations in a Sequence; .*: they have no fixed length"),
        (spaces.Tuple([spaces.Sequence(Box(-1, 1, (2,)))]), "observations in a Tuple; .*: they have no fixed length"),
        (spaces.Dict(a=spaces.Sequence(Box(-1, 1, (2,)))), "the observation group a is a Sequence; policykd takes"),
    ],
    ids=str,
)
def test_observations_of_any_length_are_refused_without_a_wrapper_that_does_not_help(space, said):
    line = refusal(lambda: Ten(observations=space))
    assert re.search(said, line) and "FlattenObservation" not in line


def test_clip_action_is_told_to_go():
    assert "remove ClipAction" in refusal(lambda: ClipAction(gym.make("Pendulum-v1")))


def test_nothing_to_see_and_nothing_to_do_are_refused():
    assert "empty actions" in refusal(lambda: Ten(Box(-1, 1, (0,))))
    assert "empty observations" in refusal(lambda: Ten(observations=Box(-1, 1, (0,))))


@pytest.mark.parametrize("backbone", ["td3", "ppo"])
@pytest.mark.parametrize(
    "space",
    [
        Box(-1, 1, (2,), np.float64),
        Box(-0.1, 0.1, (2,), np.float64),
        Box(-1, 1, (2,), np.float16),
        Box(np.array([-1, 2], np.float32), np.array([1, 2], np.float32)),
        Box(np.array([-1e-3, 5.0]), np.array([0.1, 5.0]), dtype=np.float64),
    ],
    ids=str,
)
def test_actions_stay_in_their_space_to_the_last_bit(space, backbone):
    agent = learn(lambda: Ten(space), backbone)  # Ten asserts it at every step
    wild = 100 * np.random.default_rng(0).standard_normal((50, 2)).astype(np.float32)
    for deterministic in (True, False):
        actions = agent.predict(wild, deterministic=deterministic)[0]
        assert actions.dtype == space.dtype and all(map(space.contains, actions))
    if space.dtype != np.float16:  # whose rounding is coarser than exports may be
        assert deploy(agent, 0) is not None  # acts like the learner, also where an action cannot move


def test_a_teacher_may_have_an_action_that_cannot_move():
    space = Box(np.array([-1, 2], np.float32), np.array([1, 2], np.float32))
    teacher = Teacher.load(lambda o: np.array([0.5, 2.0]), env=lambda: Ten(space))
    config = {**PPO, "round_steps": 20, "round_updates": 2, "allow_weak_teacher": True, "eval_freq": 0}
    agent = TeacherStudent(lambda: Ten(space), teacher, config=config).learn(60)
    assert np.isfinite(agent.predict(np.zeros(2))[0]).all()


def test_float32_actions_are_scaled_as_ever():
    space = Box(np.array([-0.4, -3], np.float32), np.array([0.4, 1], np.float32))
    actions = np.random.default_rng(0).uniform(-1.5, 1.5, (100, 2)).astype(np.float32)
    expected = np.clip(actions * ((space.high - space.low) / 2) + (space.high + space.low) / 2, space.low, space.high)
    scaled = ActionScale(space).to_env(actions)
    assert scaled.dtype == np.float32 and np.array_equal(scaled, expected)


@pytest.mark.parametrize("dtype", [np.uint8, np.int64, np.float64])
def test_observations_of_other_numbers_are_fine(dtype):
    assert learn(lambda: Ten(observations=Box(0, 100, (3,), dtype))).num_timesteps == 80


# What is handed in


def same(env=None):
    made = env or Ten()
    return lambda: made


def with_spaces(**spaces):
    made = Ten()
    vars(made).update(spaces)
    return made


class Stuck(Ten):
    def close(self):
        raise RuntimeError("the window is gone")


class Plain(gym.Wrapper):
    """A wrapper that does not record how it was made."""


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: None, "not a gymnasium.Env"),
        (None, "got None, not a gymnasium.Env"),
        (3, "got a int"),
        (DummyVecEnv([Ten]), "a DummyVecEnv, which holds several environments"),
        (lambda: DummyVecEnv([Ten]), "gives a DummyVecEnv, which holds several"),
        (lambda: gym.make_vec("Pendulum-v1", 2), "gives a SyncVectorEnv, which holds several"),
        (same(), "returns the same instance at every call"),
        (Ten(), "one Ten cannot be copied"),
        (Plain(gym.make("Pendulum-v1")), "one Plain cannot be copied"),
        (Monitor(gym.make("Pendulum-v1")), "one Monitor cannot be copied"),
        (lambda: 1 / 0, "cannot be made: division by zero"),
        (lambda: gym.make("NoSuch-v0"), "cannot be made"),
        (
            lambda: gym.wrappers.TimeLimit(with_spaces(observation_space=None), 5),
            "makes a Ten whose observation_space is not a gymnasium.Space: set it in its __init__",
        ),
        (lambda: with_spaces(observation_space=None), "makes a Ten whose observation_space is not a gymnasium.Space"),
        (lambda: with_spaces(action_space=gym.spaces.Box), "makes a Ten whose action_space is not a gymnasium.Space"),
        (lambda: Stuck(), "environment: Stuck: close raised RuntimeError: the window is gone"),
    ],
)
def test_what_is_no_task_is_refused(make, said):
    assert said in refusal(make)


@pytest.mark.parametrize(
    "make",
    [
        lambda: gym.wrappers.TimeLimit(Monitor(gym.make("Pendulum-v1")), 20),
        lambda: gym.wrappers.RecordEpisodeStatistics(gym.make("Pendulum-v1")),
        lambda: gym.wrappers.TimeAwareObservation(gym.make("Pendulum-v1")),
        lambda: Plain(gym.make("Pendulum-v1")),
        FlattenObservation(gym.wrappers.FrameStackObservation(gym.make("Pendulum-v1"), 3)),
        Ten,
    ],
)
def test_wrapped_tasks_work(make):
    assert learn(make, steps=40).num_timesteps == 40


# What a task returns


class Odd(Ten):
    """Ten with another answer of ``step`` or ``reset``."""

    def __init__(self, step=None, reset=None):
        super().__init__()
        self.odd_step, self.odd_reset = step, reset

    def reset(self, *, seed=None, options=None):
        result = super().reset(seed=seed)
        return result if self.odd_reset is None else self.odd_reset(*result)

    def step(self, action):
        result = super().step(action)
        return result if self.odd_step is None else self.odd_step(*result)


@pytest.mark.parametrize(
    "step",
    [
        lambda o, r, e, t, i: (o, r, e, t, None),
        lambda o, r, e, t, i: (o.tolist(), 1, np.bool_(e), np.array(t), i),
        lambda o, r, e, t, i: (o, np.array([1.0]), e, t, i),
        lambda o, r, e, t, i: (o, torch.tensor(1.0), [e], int(t), {"is_success": None}),
        lambda o, r, e, t, i: (o.astype(np.float64), np.float32(1), t, t, i),
    ],
)
def test_what_means_the_same_is_understood(step):
    odd, usual = learn(lambda: Odd(step)), learn(Ten)
    ended = step(np.zeros(2), 1.0, False, True, {})[2]
    assert [e["r"] for e in odd.run.episodes[0]] == [e["r"] for e in usual.run.episodes[0]]
    assert bool(ended) or np.array_equal(odd.replay_buffer.storage, usual.replay_buffer.storage)


@pytest.mark.parametrize(
    ("step", "said"),
    [
        (lambda o, r, e, t, i: (o, r, t, i), "must return (observation, reward, terminated, truncated, info)"),
        (lambda o, r, e, t, i: None, "not None"),
        (lambda o, r, e, t, i: (np.zeros(3), r, e, t, i), "an array of shape (3,) as observation"),
        (lambda o, r, e, t, i: (np.zeros(1), r, e, t, i), "an array of shape (1,) as observation"),
        (lambda o, r, e, t, i: (0.0, r, e, t, i), "a float as observation"),
        (lambda o, r, e, t, i: (["a", "b"], r, e, t, i), "a list of 2 as observation"),
        (lambda o, r, e, t, i: ([[1], [2, 3]], r, e, t, i), "a list of 2 as observation"),
        (lambda o, r, e, t, i: ({"a": o}, r, e, t, i), "a dict as observation"),
        (lambda o, r, e, t, i: (torch.ones(2, requires_grad=True), r, e, t, i), "a Tensor as observation"),
        (lambda o, r, e, t, i: (o, None, e, t, i), "one number as reward"),
        (lambda o, r, e, t, i: (o, np.zeros(2), e, t, i), "one number as reward"),
        (lambda o, r, e, t, i: (o, "1.0", e, t, i), "one number as reward"),
        (lambda o, r, e, t, i: (o, r, np.zeros(2), t, i), "one bool each"),
        (lambda o, r, e, t, i: (o, r, "False", t, i), "one bool each"),
        (lambda o, r, e, t, i: (o, r, [], t, i), "one bool each"),
        (lambda o, r, e, t, i: (o, r, e, np.nan, i), "one bool each"),
        (lambda o, r, e, t, i: (o, r, e, None, i), "one bool each"),
        (lambda o, r, e, t, i: (o, r, e, t, [1]), "a dict as info"),
    ],
)
def test_a_step_that_is_none_is_refused_before_a_run_begins(tmp_path, step, said):
    text = refusal(lambda: Odd(step), run_dir=tmp_path / "run")
    assert said in text and "environment: Odd: step" in text
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("reset", [lambda o, i: o, lambda o, i: (o, i, 3), lambda o, i: (np.zeros(3), i)])
def test_a_reset_that_is_none_is_refused(reset):
    assert "environment: Odd: reset" in refusal(lambda: Odd(reset=reset))


@pytest.mark.parametrize(
    ("given", "noted"), [(True, 1.0), (np.array([0.0]), 0.0), (None, None), ("yes", None), (np.nan, None)]
)
def test_only_a_success_that_is_a_number_is_noted(given, noted):
    one, first, second = {}, {}, {}
    note_success(one, {"is_success": given})
    note_success(first, {"is_success": np.array([given, 1.0], object)}, 0)
    assert one.get("is_success") == first.get("is_success") == noted
    for told in ({}, {"is_success": 1.0}, np.array([{}, {"is_success": 1.0}]), None):  # of no vector
        note_success(second, told, 1)
    assert second == {}


def test_a_reset_without_a_seed_says_what_gymnasiums_looks_like():
    class NoSeed(Ten):
        def reset(self):
            return super().reset()

    assert "Gymnasium's is reset(self, *, seed=None, options=None)" in refusal(NoSeed)


# A task that fails in the middle of a run


class Falls(Ten):
    """Counts the steps of each instance, and fails once at the 25th of the third that was made."""

    made = 0

    def __init__(self, how):
        super().__init__()
        Falls.made += 1
        self.number, self.how, self.steps = Falls.made, how, 0

    def step(self, action):
        result = super().step(action)
        self.steps += 1
        if (self.number, self.steps) == (Falls.fails, 25):
            if self.how == "raises":
                raise RuntimeError("the simulator\nfell over")
            if self.how == "inf":
                return result[0], np.inf, *result[2:]
            return (np.full(2, np.nan), *result[1:]) if self.how == "nan" else result[:4]
        return result


@pytest.fixture
def falls(monkeypatch):
    monkeypatch.setattr(Falls, "made", 0)
    monkeypatch.setattr(Falls, "fails", 4, raising=False)  # two looks at the task come first; so learner 1's
    return lambda how: lambda: Falls(how)


@pytest.mark.parametrize(
    ("backbone", "how", "said"),
    [
        ("td3", "raises", "Falls: step raised RuntimeError: the simulator at step 25 of learner 1 (seed 0, peer 1)"),
        ("ppo", "raises", "Falls: step raised RuntimeError: the simulator at step 25 of learner 1 (seed 0, peer 1)"),
        ("td3", "nonsense", "not a tuple of 4"),
        ("ppo", "nan", "returned an observation that is not finite at step 25 of learner 1 (seed 0, peer 1)"),
    ],
)
def test_a_run_whose_task_fails_says_whose_it_was_and_keeps_the_learners(tmp_path, falls, backbone, how, said):
    agent = DualStudent(
        falls(how), backbone=backbone, config={**SMALL[backbone], "checkpoint_freq": 40}, run_dir=tmp_path / "run"
    )
    with pytest.raises(PolicyKDError) as error:
        agent.learn(120)
    text = str(error.value)
    assert said in text and "at step 25 of learner 1 (seed 0, peer 1); " in text and "\n" not in text
    assert "resume from the last checkpoint with load() in Python, or --resume of the command policykd" in text
    stopped = DualStudent.load(tmp_path / "run" / "stopped.safetensors", env=falls("never"))
    assert stopped.num_timesteps == 48 and (stopped.learner.actor == agent.learner.actor).all()
    Falls.fails = None  # the task is mended
    resumed = DualStudent.load(tmp_path / "run", env=falls("never"))
    assert resumed.num_timesteps == 40
    assert resumed.learn(120 - 40).num_timesteps == 120


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("raises", ": step raised RuntimeError: the simulator"),
        ("nan", " returned an observation that is not finite at step 5 of an episode"),
        ("inf", " returned a reward that is not finite at step 5 of an episode"),
    ],
)
def test_a_task_that_fails_in_evaluation_says_whose_it_was(falls, how, said):
    Falls.fails = 6  # of the evaluator of learner 1
    agent = DualStudent(falls(how), backbone="td3", config={**SMALL["td3"], "n_eval_episodes": 4})
    with pytest.raises(PolicyKDError) as error:
        agent.learn(40)
    assert str(error.value) == f"environment: Falls{said} (in the evaluation of learner 1)"
    assert agent.evaluations == []


def test_a_learner_that_has_diverged_is_not_taken_for_a_broken_task():
    agent = learn("Pendulum-v1", steps=0)
    agent.learner.actor[1] = np.nan
    returns = agent.evaluate(2).returns
    assert np.isfinite(returns[0]).all() and np.isnan(returns[1]).all()


def test_a_return_that_is_not_a_number_is_never_the_best():
    agent = learn(Ten, steps=0)
    agent.evaluations.append(evaluate.Evaluation(np.array([[np.nan, 1.0], [-20.0, -20.0]]), np.ones((2, 2), int)))
    assert agent.learner_index("best") == 1


def test_a_warning_is_for_the_log_of_policykd(short_limit):
    assert evaluate.log is logging.getLogger("policykd")


def test_a_task_by_id_is_still_found():
    assert DualStudent(POINT, config=TINY).made_by_id
