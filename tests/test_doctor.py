"""Each thing that can be wrong with a distillation is broken on purpose, and the check-up names it and nothing else."""

import json
import re

import gymnasium as gym
import numpy as np
import pytest
from sb3_agents import Lopsided, agent, normalised_agent
from tiny import POINT

from policykd import PolicyKDError, Teacher, TeacherStudent
from policykd.cli import main
from policykd.cli.doctor import _options as command_options
from policykd.measure import doctor, doctor_fit, doctor_play
from policykd.measure.doctor import diagnose
from policykd.measure.doctor_fit import r2
from policykd.measure.fidelity import visited
from policykd.tasks.spaces import find_task
from policykd.tasks.views import View
from policykd.teachers.demonstrations import demonstrate
from policykd.teachers.policy import Recorded

FAST = {"n_episodes": 40, "net_arch": (32, 32), "learning_rate": 5e-3, "updates": 300}
THREE = np.full(1, 3.0, np.float32)
TEACHER_ALONE = {"n_episodes": 8, "updates": 0}


@pytest.fixture(autouse=True)
def short_cloning(monkeypatch):
    monkeypatch.setattr(doctor, "WIDE", (48, 48))
    monkeypatch.setattr(doctor, "RATE", 5e-3)
    monkeypatch.setattr(doctor_fit, "BATCH", 64)


def controller(gain=3.0):
    """Move towards the goal, slower when near."""

    def act(observation):
        return np.clip(gain * observation[..., 2:], -1, 1)

    return act


def wrong(diagnosis):
    return [finding.check for finding in diagnosis.wrong]


def advice(diagnosis):
    (finding,) = diagnosis.wrong
    return finding.advice


def made(*wrappers):
    """PointReach behind wrappers, with its time limit."""

    def make():
        env = gym.make(POINT)
        for wrapper in wrappers:
            env = wrapper(env)
        return env

    return make


def test_a_healthy_distillation_has_nothing_wrong():
    diagnosis = diagnose(controller(), POINT, **FAST)
    assert wrong(diagnosis) == []
    assert [finding.state for finding in diagnosis.findings].count("unknown") == 1  # nothing was recorded
    page = str(diagnosis)
    assert page.startswith("doctor: teacher function act on PolicyKD/PointReach-v0; student 32x32 sees all 4 obs")
    assert page.endswith("nothing wrong was found") and len(page.splitlines()) == 15


def test_two_checkups_are_the_same():
    short = {**FAST, "updates": 10, "n_episodes": 4}
    assert str(diagnose(controller(), POINT, **short)) == str(diagnose(controller(), POINT, **short))


def test_a_teacher_that_walks_away():
    assert "return" in wrong(diagnose(controller(-0.02), POINT, **TEACHER_ALONE))


def test_a_teacher_that_is_worse_than_its_folder_says(tmp_path):
    (tmp_path / "PPO-v0").mkdir()
    agent("PPO").save(tmp_path / "PPO-v0.zip")
    honest = Teacher.load(tmp_path / "PPO-v0.zip", Lopsided).score(Lopsided, 8).mean
    for last, found in ((honest + 100, ["recorded return"]), (honest, [])):
        results = np.array([[honest - 500.0] * 4, [last] * 4])[..., None]  # some versions of SB3 keep an axis more
        np.savez(tmp_path / "evaluations.npz", results=results, timesteps=[1, 2])
        assert [
            name for name in wrong(diagnose(tmp_path / "PPO-v0.zip", Lopsided, **TEACHER_ALONE)) if "recorded" in name
        ] == found
    (tmp_path / "evaluations.npz").unlink()
    hub = {"mean_reward": honest + 100, "std_reward": 1.0, "n_eval_episodes": 10}
    (tmp_path / "results.json").write_text(json.dumps(hub))
    (finding,) = [
        f for f in diagnose(tmp_path / "PPO-v0.zip", Lopsided, **TEACHER_ALONE).wrong if f.check == "recorded return"
    ]
    assert "(results.json)" in finding.measured


def test_a_normaliser_that_is_missing(tmp_path):
    model, _ = normalised_agent("PPO")
    (tmp_path / "agent").mkdir()
    model.save(tmp_path / "agent.zip")
    (tmp_path / "agent" / "config.yml").write_text("normalize: true\n")
    (finding,) = [
        f for f in diagnose(tmp_path / "agent.zip", Lopsided, **TEACHER_ALONE).wrong if f.check == "normaliser"
    ]
    assert "statistics missing" in finding.measured


@pytest.mark.parametrize(("factor", "found"), [(1.0, []), (1e-5, ["normaliser"])])
def test_a_normaliser_of_another_run(tmp_path, factor, found):
    model, env = normalised_agent("PPO")
    env.obs_rms.var[:2] *= factor  # two features of five; of more, loading refuses it
    (tmp_path / "agent").mkdir()
    model.save(tmp_path / "agent.zip")
    env.save(str(tmp_path / "agent" / "vecnormalize.pkl"))
    names = wrong(diagnose(tmp_path / "agent.zip", Lopsided, **TEACHER_ALONE))
    assert [name for name in names if name == "normaliser"] == found


@pytest.mark.parametrize(
    ("bound", "factor", "found"),
    [
        (3.0, 1.0, ["action scale"]),  # in -1 to 1, and stops there
        (3.0, 0.9, ["action scale"]),  # never at 1, which only its return tells
        (3.0, 3.0, []),
        (0.4, 1.0, ["action scale"]),  # beyond the bounds, and clipped
        (0.4, 0.4, []),
        (0.4, 0.1, []),  # within wide and narrow bounds alike
    ],
)
def test_actions_that_are_not_in_the_tasks_units(bound, factor, found):
    other = made(lambda env: gym.wrappers.RescaleAction(env, -bound, bound))
    diagnosis = diagnose(lambda o: factor * controller()(o), other, **TEACHER_ALONE)
    assert wrong(diagnosis) == found
    if found:
        assert "to the task's units" in advice(diagnosis) and "brought to the bounds it returns" in str(diagnosis)


def test_answers_are_of_other_units_only_where_these_return_more():
    own, random = np.array([-20.0, -22, -21]), np.array([-90.0, -95, -93])
    actions = np.linspace(-0.3, 0.3, 50)[:, None]
    for gain, reach, state in ((30, 1, "wrong"), (-30, 1, "ok"), (1, 1, "wrong"), (1, 0.9, "ok"), (30, 0.9, "wrong")):
        rescaled = doctor.checks.Rescaled(own, own + gain, random)
        answers = actions / 0.3 * reach
        assert doctor.checks.action_scale(actions, answers, -THREE, THREE, rescaled).state == state, (gain, reach)
    assert not doctor.checks.maybe_unit_scaled(answers, -THREE / 3, THREE / 3).any()  # the task's own
    beyond = np.hstack((answers, 3 * answers))  # one action goes beyond 1, so none is of -1 to 1
    assert not doctor.checks.maybe_unit_scaled(beyond, np.full(2, -3.0), np.full(2, 3.0)).any()


@pytest.mark.parametrize(("returns", "state"), [([9.0, 11], "wrong"), ([0.0, 20], "ok"), ([17.0, 17], "ok")])
def test_a_teacher_is_worse_than_its_record_only_beyond_what_chance_explains(returns, state):
    """Of 20, and of 0 at random: two standard errors are 2.8 for 9 and 11, 20.1 for 0 and 20; and 17 is most of it."""
    recorded = Recorded(20.0, "evaluations.npz")
    assert doctor.checks.against_record(np.array(returns), np.array([-1.0, 1.0]), recorded).state == state


@pytest.mark.parametrize(("backbone", "found"), [("ppo", ["action bounds"]), ("td3", [])])
def test_action_bounds_that_a_student_of_ppo_cannot_reach(backbone, found):
    wide = made(lambda env: gym.wrappers.RescaleAction(env, 0.0, 1000.0))
    diagnosis = diagnose(lambda o: 500 + 500 * controller()(o), wide, backbone=backbone, **FAST)
    assert wrong(diagnosis) == found
    if found:
        assert "RescaleAction(env, -1, 1)" in advice(diagnosis)


@pytest.mark.parametrize(("backbone", "env"), [("ppo", POINT), ("sac", POINT), ("ppo", "CartPole-v1")])
def test_what_is_cloned_is_the_student_that_is_distilled(backbone, env):
    config = {"net_arch": (8,)} | ({"normalize_observation": False} if backbone == "ppo" else {})
    agent = TeacherStudent(env, None, method="bc", backbone=backbone, config=config)
    student = doctor_fit.Student((8,), agent.config.activation_fn, 1e-3, False, backbone, None, env == "CartPole-v1")
    learner = student.new(agent.sizes, np.random.default_rng(0))
    assert type(learner) is type(agent.learner) and learner.actor.shape == agent.learner.actor.shape
    generator = np.random.default_rng(1)
    rows, done = (
        generator.normal(size=(80, 4)).astype(np.float32),
        np.eye(2, dtype=np.float32)[generator.integers(2, size=80)],
    )
    fit = doctor_fit.clone(rows, done, np.arange(80) % 4 == 3, student, 3)
    assert np.isfinite(fit.losses).all() and (fit.gradient_norms > 0).all()


def test_actions_that_do_not_depend_on_the_state():
    assert "action scale" in wrong(diagnose(lambda o: np.full_like(o[..., 2:], 0.3), POINT, **TEACHER_ALONE))


def test_actions_that_are_always_at_a_bound():
    diagnosis = diagnose(controller(1e6), POINT, **TEACHER_ALONE)
    assert wrong(diagnosis) == ["actions at bounds"]


def test_a_teacher_that_samples_its_actions():
    generator = np.random.default_rng(0)
    diagnosis = diagnose(lambda o: controller()(o) + 0.1 * generator.standard_normal(2), POINT, **TEACHER_ALONE)
    assert wrong(diagnosis) == ["noise"] and "deterministic" in advice(diagnosis)


def test_a_teacher_that_is_too_sure_of_its_actions():
    model = agent("PPO")
    model.policy.log_std.data.fill_(-12.0)
    (finding,) = [f for f in diagnose(model, Lopsided, **TEACHER_ALONE).wrong if f.check == "noise"]
    assert "variance_scale" in finding.advice


def test_a_teacher_whose_answers_are_not_finite():
    def act(observation):
        return np.where(np.abs(observation[..., 2:]).sum(-1, keepdims=True) < 0.02, np.nan, controller()(observation))

    diagnosis = diagnose(act, POINT, **TEACHER_ALONE)
    assert wrong(diagnosis) == ["answers"] and "not finite" in diagnosis.wrong[0].measured


class Broken(gym.Wrapper):
    """PointReach whose third step is an observation or a reward of NaN, or raises."""

    def __init__(self, env, how):
        super().__init__(env)
        self.how = how

    def reset(self, **options):
        self.count = 0
        return self.env.reset(**options)

    def step(self, action):
        observation, reward, *ends = self.env.step(action)
        self.count += 1
        if self.count == 3:
            assert self.how != "raises", "no solution"
            observation, reward = (observation * np.nan, reward) if self.how == "observation" else (observation, np.nan)
        return observation, reward, *ends


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("observation", "returned an observation that is not finite at step"),
        ("reward", "returned a reward that is not finite at step"),
        ("raises", "step.* raised AssertionError: no solution"),
    ],
)
def test_a_broken_task_is_not_the_teachers_fault(how, said):
    task = made(lambda env: Broken(env, how))
    with pytest.raises(PolicyKDError, match=said):
        diagnose(controller(), task, **TEACHER_ALONE)
    with pytest.raises(PolicyKDError, match=said):
        demonstrate(controller(), task, 2)
    if how != "reward":  # fidelity looks at none
        with pytest.raises(PolicyKDError, match=said):
            visited(find_task(task).make, lambda observation: np.zeros((1, 2)), 10, 0)


class Ends(gym.Wrapper):
    """PointReach that ends otherwise: after ``steps`` with ``terminated`` and ``truncated``."""

    def __init__(self, env, steps, terminated, truncated):
        super().__init__(env)
        self.when, self.how, self.count = steps, (terminated, truncated), 0

    def reset(self, **options):
        self.count, self.now = 0, self.when if isinstance(self.when, int) else next(self.when)
        return self.env.reset(**options)

    def step(self, action):
        observation, reward, _, _, info = self.env.step(action)
        self.count += 1
        terminated, truncated = self.how if self.count >= self.now else (False, False)
        return observation, reward, terminated, truncated, info


@pytest.mark.parametrize(
    ("ends", "advised"),
    [
        (lambda env: Ends(env, 50, True, False), "reported as terminated"),
        (lambda env: Ends(env.unwrapped, 20, True, False), "reported as terminated"),
        (lambda env: Ends(env, iter([10, 30] * 99), False, True), "report failures as terminated"),
        (lambda env: Ends(env.unwrapped, 10**9, False, False), "give the task a time limit"),
        (lambda env: Ends(env, iter([10, 30] * 99), True, False), None),
        (lambda env: Ends(env, iter([10, 30] * 99), True, True), None),
        (lambda env: Ends(env, 50, False, True), None),
    ],
)
def test_time_limits_and_failures_that_are_mixed_up(monkeypatch, ends, advised):
    monkeypatch.setattr(doctor_play, "LONGEST", 200)
    monkeypatch.setattr(doctor_play.play, "__defaults__", (200,))
    diagnosis = diagnose(controller(), made(ends), **TEACHER_ALONE)
    assert ("time limits" in wrong(diagnosis)) == (advised is not None)
    if advised:
        assert advised in next(f.advice for f in diagnosis.wrong if f.check == "time limits")


def test_a_student_that_does_not_see_the_goal():
    diagnosis = diagnose(controller(), POINT, student_observations=(0, 1, 3), **FAST)
    assert wrong(diagnosis) == ["what the student sees"]
    assert "column 2" in advice(diagnosis)


def test_the_student_and_the_teacher_see_what_their_settings_say():
    def near(observation):  # of the gap alone
        return np.clip(3 * observation, -1, 1)

    short = {**FAST, "updates": 20, "n_episodes": 4, "observation_groups": {"gap": (2, 3)}}
    seen = {"teacher_observations": "gap", "student_observations": lambda rows: rows[:, 2:] * 2, "history": 3}
    page = str(diagnose(near, POINT, **short, **seen))
    assert "sees 2 of 4 observations, the latest 3 together" in page and "the last 4" not in page
    assert "sees 2 of 4 observations\n" in str(diagnose([controller()], POINT, **short, student_observations="gap"))


class Velocity(gym.ObservationWrapper):
    """Positions of now and the change since the last step, which is what the teacher acts on."""

    def __init__(self, env):
        super().__init__(env)
        self.observation_space = gym.spaces.Box(-np.inf, np.inf, (4,), np.float32)
        self.last = np.zeros(2)

    def reset(self, **options):
        self.last = None
        return super().reset(**options)

    def observation(self, observation):
        gap = observation[2:]
        change = np.zeros(2) if self.last is None else gap - self.last
        self.last = gap
        return np.concatenate((gap, 10 * change)).astype(np.float32)


def test_memory_is_advised_where_it_brings_back_what_is_hidden():
    def act(observation):
        return np.clip(observation[..., :2] + 0.7 * np.sign(observation[..., :2]) - observation[..., 2:], -1, 1)

    diagnosis = diagnose(act, made(Velocity), student_observations=(0, 1), **FAST)
    assert "give it memory" in next(f.advice for f in diagnosis.wrong if f.check == "what the student sees")


def wavy(observation):
    """Towards the goal by a wave that few units cannot draw."""
    return np.clip(2 * observation[..., 2:] + 0.6 * np.sin(7 * observation[..., :2]), -1, 1)


def test_a_student_that_is_too_small():
    diagnosis = diagnose(wavy, POINT, **{**FAST, "net_arch": (1,)})
    assert "capacity" in wrong(diagnosis)
    assert "too small: try" in next(f.advice for f in diagnosis.wrong if f.check == "capacity")


@pytest.mark.parametrize(("rate", "advised"), [(1e-6, "too small"), (1.0, "too large")])
def test_a_learning_rate_that_cannot_learn(rate, advised):
    diagnosis = diagnose(controller(), POINT, **{**FAST, "learning_rate": rate})
    assert "learning rate" in wrong(diagnosis)
    assert advised in next(f.advice for f in diagnosis.wrong if f.check == "learning rate")


def fit(explained):
    return doctor.Fit(explained, np.ones(100), np.ones(100))


def test_cloning_that_explains_nothing_blames_no_setting():
    """However far below 0 its R^2 is: an answer that never changes makes that a matter of rounding."""
    student = doctor.Student((8,), "tanh", 1e-3, True)
    fits = {1e-4: fit(0.03), 1e-3: fit(-1.3), 1e-2: fit(-np.inf)}
    assert doctor.checks.learning_rate(fits, student).state == "ok"
    assert doctor.checks.capacity({(8,): fit(-6e9), (64, 64): fit(-1e9)}, student).state == "ok"
    sight = doctor.checks.sight(fit(0.9), fit(-6.0), fit(-1.0), [2])
    assert sight.state == "wrong" and sight.advice == "show it more (most is missed of column 2)"
    assert "give it memory" in doctor.checks.sight(fit(0.9), fit(-1.0), fit(0.6), [2]).advice


def test_states_that_are_held_out_change_nothing_in_what_is_learnt():
    draws = np.random.default_rng(0)
    inputs, actions, held_out = draws.normal(size=(40, 2)), draws.uniform(-1, 1, (40, 1)), np.arange(40) >= 30
    student = doctor.Student((4,), "tanh", 1e-2, True)
    fit = doctor_fit.clone(inputs, actions, held_out, student, 5)
    inputs[held_out], actions[held_out] = inputs[held_out] + 9, 0
    np.testing.assert_array_equal(doctor_fit.clone(inputs, actions, held_out, student, 5).losses, fit.losses)


def test_the_mean_of_every_action_explains_nothing():
    actions = np.array([[0.0, 10.0], [2.0, 10.0]])
    assert r2(np.array([[1.0, 10.0]] * 2), actions) == 0 and r2(np.array([[0.5, 10.0], [1.5, 10.0]]), actions) == 0.75


def test_observations_that_no_network_can_read():
    huge = made(lambda env: gym.wrappers.TransformObservation(env, lambda o: o * [1, 1, 1e5, 1e5], None))

    def act(observation):
        return np.clip(observation[..., 2:] * 3e-5, -1, 1)

    assert "observations" in wrong(diagnose(act, huge, normalize=False, **FAST))
    assert wrong(diagnose(act, huge, normalize=True, **FAST)) == []


def test_gradients_that_vanish_or_explode_are_named():
    fit = doctor.Fit(0.1, np.ones(100), np.full(100, 1e-9))
    assert "vanish" in doctor.checks.gradients(fit).advice
    norms = np.ones(100)
    norms[70] = 1e3
    assert "spike" in doctor.checks.gradients(doctor.Fit(0.9, norms, norms)).advice
    norms[70] = np.nan
    assert "not finite from step 70" in doctor.checks.gradients(doctor.Fit(0.9, norms, norms)).measured


def test_what_cannot_be_asked_is_one_line():
    for changes, said in (
        ({"student_observations": (0, 9)}, r"student_observations: columns must lie between 0 and 3, got \[0, 9\]"),
        ({"teacher_observations": "legs"}, "teacher_observations: there is no observation group 'legs'"),
        ({"history": 0}, "history=0 must be positive"),
        ({"teacher": [controller(), controller()]}, "one teacher at a time, got 2: run it for each"),
        ({"student_observations": "legs"}, "there is no observation group 'legs'; the task has no named groups"),
        ({"backbone": "dqn"}, "backbone: 'dqn' is unknown"),
        ({"n_episodes": 1}, "n_episodes=1 must be at least 4"),
    ):
        with pytest.raises(PolicyKDError, match=said):
            diagnose(**{"teacher": controller(), "env": POINT, **TEACHER_ALONE, **changes})


def test_a_teacher_that_remembers_is_refused():
    teacher = Teacher.load(controller(), POINT)
    teacher.policy = teacher.policy.changed(step=lambda *_: None)
    with pytest.raises(PolicyKDError, match="has memory"):
        diagnose(teacher, POINT, **TEACHER_ALONE)


def test_stacked_observations_do_not_cross_episodes():
    observations, starts = np.arange(5, dtype=np.float32)[:, None], np.array([1, 0, 0, 1, 0], bool)
    expected = [[0, 0, 0], [0, 0, 1], [0, 1, 2], [3, 3, 3], [3, 3, 4]]
    assert View(1, 1, history=3).stack_history(observations, starts).tolist() == expected
    assert r2(observations, observations) == 1.0
    assert r2(np.full((5, 1), 2.0), observations) == 0.0


def test_of_a_teacher_that_does_not_vary_there_is_nothing_to_explain():
    actions = np.full((50, 2), 0.3, np.float32) + np.linspace(0, 1e-5, 50, dtype=np.float32)[:, None]
    assert [r2(actions + error, actions) for error in (0.1, np.nan)] == [0.0, -np.inf]
    page = str(diagnose(lambda o: np.full((*o.shape[:-1], 2), 0.3), POINT, n_episodes=4, updates=20))
    assert "its actions do not depend on the state" in page
    assert set(re.findall(r"R\^2 ([-\de.+]+)", page)) == {"0.000"} and "2 of 13 wrong" in page


def test_the_command_prints_a_page_and_exits_with_1_where_something_is_wrong(tmp_path, capfd):
    model = agent("PPO", gym.make(POINT))
    model.save(tmp_path / "agent.zip")
    command = ["doctor", "--teacher", str(tmp_path / "agent.zip"), "--env", POINT, "--updates", "20"]
    with pytest.raises(SystemExit) as ended:
        main([*command, "--student", "8x8", "--out", str(tmp_path / "page.txt"), "--student-observations", "0", "1"])
    assert ended.value.code == 1
    page = capfd.readouterr().out
    assert "student 8x8 sees 2 of 4 observations" in page and "wrong   return" in page and "13 wrong: " in page
    assert (tmp_path / "page.txt").read_text(encoding="utf-8") == page
    for words, said in (
        (["--student", "8y"], "'8y' is not a list of widths"),
        (["--updatez", "3"], "nearest: --updates (policykd doctor --help)"),
    ):
        with pytest.raises(SystemExit) as ended:
            main([*command, *words])
        assert ended.value.code == 2
        error = capfd.readouterr().err
        assert said in error and error.count("\n") == 1


def test_the_command_asks_for_a_normaliser_by_a_flag_and_takes_numbers_as_the_others_do():
    asked = ["--teacher", "agent.zip", "--updates", "1e3"]
    assert command_options(asked).normalize and command_options(asked).updates == 1000
    assert not command_options([*asked, "--backbone", "td3"]).normalize
    assert command_options([*asked, "--backbone", "td3", "--normalize"]).normalize
    assert not command_options([*asked, "--no-normalize"]).normalize


def test_the_command_names_groups_as_distill_does():
    asked = ["--teacher", "agent.zip", "--observation-groups", "joints=0:2", "force=2,3", "--history", "2"]
    options = command_options([*asked, "--student-observations", "joints", "--teacher-observations", "joints", "3"])
    assert options.observation_groups == {"joints": (0, 1), "force": (2, 3)} and options.history == 2
    assert options.student_observations == ("joints",) and options.teacher_observations == ("joints", 3)
