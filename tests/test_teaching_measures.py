"""What is measured of a student: how alike it acts, what it costs, what it reaches of its teacher."""

import gymnasium as gym
import numpy as np
import policykd_envs
import pytest
import torch
from policykd_envs.wrappers import SelectObservation
from test_teacher_student import COPY, expert
from tiny import POINT

from policykd import Teacher, TeacherStudent
from policykd.benchmark import students
from policykd.core.errors import PolicyKDError
from policykd.core.networks import PolicyOutput
from policykd.measure.fidelity import compare, fidelity
from policykd.measure.footprint import footprint
from policykd.tasks.env_state import get_env_state, set_env_state
from policykd.teachers import TeacherScore


@pytest.fixture(scope="module")
def twin():
    """Two students of a teacher that is the first of them."""
    first = TeacherStudent(POINT, expert, config=COPY).learn(200)
    agent = TeacherStudent(POINT, Teacher.load(first), seeds=(0, 1), config=COPY)
    for name in ("parameters", "observation_stats"):
        ours, theirs = getattr(agent.learner, name), getattr(first.learner, name)
        if name == "parameters":
            ours[0] = theirs[0]
        else:
            for part in ("mean", "var"):
                getattr(ours, part)[0] = getattr(theirs, part)[0]
            ours.count.copy_(theirs.count)
    return agent


def test_a_student_that_is_its_teacher_agrees_everywhere(twin):
    for measured in fidelity(twin, 0, steps=120).values():
        assert measured.distance < 1e-6
        assert measured.agreement == 1.0
        assert abs(measured.kl) < 1e-6
    other = fidelity(twin, 1, steps=120)
    assert all(m.distance > 0.1 and m.agreement < 1 and m.kl > 0.01 for m in other.values())


def test_fidelity_is_measured_at_the_states_of_both(twin):
    other = fidelity(twin, 1, steps=120)
    assert other["student_states"] != other["teacher_states"]
    assert other == fidelity(twin, 1, steps=120)
    twin_alone = TeacherStudent(POINT, expert, config=COPY)
    twin_alone.tutor.panel = None
    with pytest.raises(PolicyKDError, match="the agent has no teacher"):
        fidelity(twin_alone, 0)


def test_agreement_depends_on_its_tolerance(twin):
    shares = [fidelity(twin, 1, steps=100, tolerance=t)["teacher_states"].agreement for t in (0.0, 0.2, 2.1)]
    assert shares[0] <= shares[1] <= shares[2] == 1.0


def test_measures_of_two_policies_by_hand():
    own, source = (
        PolicyOutput(*(torch.tensor([[[x], [y]]]) for x, y in parts))
        for parts in (((0.5, -0.2), (0.5, -0.2), (1.0, 1.0)), ((0.55, 3.0), (0.55, 3.0), (0.5, 0.5)))
    )
    found = compare(own, source, 0.1)  # beyond 1 actions are executed at 1
    assert (found.agreement, found.distance) == (0.5, pytest.approx((0.05 + 1.2) / 2))
    gaps = (0.05, 3.2)  # KL(source || own) = ln 2 + (1/4 + gap^2) / 2 - 1/2
    assert found.kl == pytest.approx(np.mean([np.log(2) + (0.25 + gap**2) / 2 - 0.5 for gap in gaps]), rel=1e-5)


def test_what_a_student_costs(twin):
    cost = footprint(twin, 0, calls=50)
    assert cost.parameters == (4 + 1) * 8 + (8 + 1) * 8 + (8 + 1) * 2
    assert cost.flops == 2 * (4 * 8 + 8 * 8 + 8 * 2)
    # float32 weights and four bounds of two numbers; mean and standard deviation of four observations in float64
    assert cost.bytes == 4 * cost.parameters + 4 * 4 * 2 + 2 * 8 * 4
    assert 0 < cost.latency_p50 <= cost.latency_p99


def test_return_ratio():
    def score(teacher, chance):
        return TeacherScore("t", "e", np.array([teacher]), np.array([chance]))

    assert score(100.0, -20.0).ratio(np.array([50.0, 100.0])).tolist() == [0.5, 1.0]
    # A teacher of -100 beside -300 by chance: -200 is half way.
    assert score(-100.0, -300.0).ratio(np.array([-200.0])).tolist() == [0.5]
    assert score(0.0, -10.0).ratio(np.array([-5.0])).tolist() == [0.5]  # nor can anything be a share of 0


class Falls(gym.Wrapper):
    """Ends after three steps where the first observation is large, and after five elsewhere."""

    def reset(self, **options):
        observation, info = self.env.reset(**options)
        self.left = 3 if observation[0] > 0 else 5
        return observation, info

    def step(self, action):
        observation, reward, _, _, info = self.env.step(action)
        self.left -= 1
        return observation, reward, self.left == 0, False, info


def test_what_is_kept_is_measured_on_the_same_starts():
    from policykd.benchmark.retention import retention

    agent = TeacherStudent(
        lambda: Falls(policykd_envs.make(POINT)), expert, config={**COPY, "allow_weak_teacher": True}
    )
    student = agent.evaluate(8, seed=7)
    (row,) = retention(agent, student, 7)
    short = int((student.lengths == 3).sum())
    assert 0 < short < 8 and row["falls"] == row["teacher_falls"] == short
    assert row["return_min"] == student.returns.min() and row["teacher_return_min"] <= row["teacher_return_here"]
    chance = agent.score_teacher().random_mean if row["teacher_return_here"] <= 0 else 0.0
    kept = (student.returns.mean() - chance) / (row["teacher_return_here"] - chance)
    assert row["retention"] == pytest.approx(kept)
    itself = student._replace(returns=np.full((1, 8), row["teacher_return_here"]))
    assert retention(agent, itself, 7)[0]["retention"] == pytest.approx(1.0)
    early = student._replace(lengths=np.full((1, 8), 2))  # a student that always falls, and its teacher does not
    (row,) = retention(agent, early, 7)
    assert (row["falls"], row["teacher_falls"]) == (8, short)


def test_steps_to_a_share_of_the_teacher_are_those_of_the_first_evaluation_there():
    changes = {"eval_freq": 80, "round_updates": 80, "net_arch": (16, 16), "distill_learning_rate": 3e-3}
    agent = TeacherStudent(POINT, expert, config={**COPY, **changes}).learn(1200)
    (row,) = students.measure(agent, episodes=2, latency_calls=20)
    score = agent.score_teacher()
    ratios = [score.ratio(e.returns[0]).mean() for e in agent.evaluations]
    first = next(i for i, ratio in enumerate(ratios) if ratio >= 0.9)
    assert row["steps_to_90%"] == agent.evaluation_steps[first]
    assert all(ratio < 0.9 for ratio in ratios[:first])
    assert 0 < row["seconds_to_90%"] + 0.1 <= agent.run.elapsed + 0.2
    assert "| 16x16 |" in students.table([row])


def test_the_whole_observation_stays_beside_what_is_shown():
    env = SelectObservation(gym.make("Pendulum-v1"), (2, 0))
    shown, _ = env.reset(seed=1)
    for _ in range(5):
        np.testing.assert_array_equal(shown, env.full_observation[[2, 0]])
        before = env.full_observation
        shown, _, _, _, info = env.step(np.ones(1, np.float32))
        np.testing.assert_array_equal(info["full_observation"], env.full_observation)
        assert (before != env.full_observation).any()
    again = SelectObservation(gym.make("Pendulum-v1"), (2, 0))
    again.reset(seed=2)
    set_env_state(again, get_env_state(env))
    np.testing.assert_array_equal(again.full_observation, env.full_observation)
    for bad in ((), (3,), (-1,)):
        with pytest.raises(ValueError, match="columns must lie between 0 and 2"):
            SelectObservation(gym.make("Pendulum-v1"), bad)
    assert again.observation_space.shape == (2,)
    assert torch.from_numpy(shown).shape == (2,)
