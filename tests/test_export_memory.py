"""Students that remember leave as C and as a fast Python function, which act along episodes as the student did."""

import subprocess

import gymnasium as gym
import numpy as np
import pytest
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor
from test_export_c import OneLearner, compiler, seeded
from test_student_memory import SEES
from test_teacher_student import COPY, expert
from tiny import POINT

from policykd import PolicyKDError, TeacherStudent
from policykd.export import Policy, compiled, deploy
from policykd.export.c import to_c
from policykd.export.compiled import CompiledPolicy
from policykd.export.int8 import quantise
from policykd.export.plain import flatten
from policykd.export.stateful import Episodes, over_episodes
from policykd.export.stateful import unroll as play_along
from policykd.native.build import Unavailable

REMEMBERS = [sees for sees in SEES if sees != "columns"]
STARTS = np.zeros(20, bool)
STARTS[[0, 1, 9, 15]] = True
"""Where episodes start."""


@pytest.fixture(scope="module", params=REMEMBERS)
def student(request):
    """One with large weights, so that what it remembers matters, and statistics far from (0, 1)."""
    backbone = "sac" if request.param == "units" else "ppo"
    agent = TeacherStudent(POINT, expert, backbone=backbone, config={**COPY, **SEES[request.param]})
    agent.learner.actor.mul_(2)
    if backbone == "ppo":
        agent.learner.observation_stats.mean.add_(2.5)
    return agent


def observations(*shape, seed=0):
    return np.random.default_rng(seed).normal(2, 1, (*shape, 4)).astype(np.float32)


def follow(policy, rows, starts):
    """What a policy does along rows of observations, and where episodes start."""
    actions, state = [], None
    for row, start in zip(rows, starts, strict=True):
        action, state = policy.predict(row, state, start)
        actions.append(action)
    return np.stack(actions)


def play_in_c(folder, rows, starts):
    """Actions of the written files along episodes, by a program of their own; its state begins as NaN."""
    (folder / "main.c").write_text(
        '#include <stdio.h>\n#include <string.h>\n#include "policy.h"\n'
        "int main(void) { float o[POLICY_OBSERVATIONS], s[POLICY_STATE], a[POLICY_ACTIONS], start;"
        "memset(s, 255, sizeof s);"
        "while (fread(&start, sizeof start, 1, stdin) && fread(o, sizeof o, 1, stdin))"
        "{ policy_act(o, start > 0.0f, s, a); fwrite(a, sizeof a, 1, stdout); } return 0; }\n"
    )
    strict = ["-std=c99", "-O2", "-Wall", "-Wextra", "-Wconversion", "-pedantic", "-Werror"]
    command = [*compiler(), *strict, "-o", str(folder / "main"), str(folder / "main.c"), str(folder / "policy.c")]
    made = subprocess.run(command, capture_output=True, text=True)  # and no -lm
    assert made.returncode == 0, made.stderr
    given = np.column_stack((starts, rows)).astype(np.float32).tobytes()
    out = subprocess.run([str(folder / "main")], input=given, capture_output=True, check=True).stdout
    return np.frombuffer(out, np.float32).reshape(len(rows), 2)


def test_the_written_c_is_the_student_along_episodes(student, tmp_path):
    compiler()
    rows = observations(len(STARTS))
    expected = follow(student, rows[:, None], STARTS[:, None])[:, 0]
    forgetful = follow(student, rows[:, None], np.ones((len(rows), 1)))[:, 0]
    assert np.abs(expected - forgetful).max() > 1e-2
    size = to_c(student, 0, tmp_path / "c", inputs="full")
    assert size.compiled and size.difference.worst <= 1e-5
    np.testing.assert_allclose(play_in_c(tmp_path / "c", rows, STARTS), expected, atol=1e-5)
    text = (tmp_path / "c" / "policy.h").read_text(encoding="utf-8")
    assert f"#define POLICY_STATE {size.state // 4}\n" in text and f"a state of {size.state} bytes" in text
    text = (tmp_path / "c" / "policy.c").read_text(encoding="utf-8")
    assert "malloc" not in text and "<math.h>" not in text


@pytest.mark.parametrize("by", ["c", "numpy"])
def test_the_fast_policy_is_the_student_along_episodes(student, by):
    if by == "c":
        compiler()
    policy, rows = Policy(student, 0, by), observations(len(STARTS), 2)
    starts = np.column_stack((STARTS, STARTS[::-1]))
    expected = follow(student, rows, starts)
    np.testing.assert_allclose(follow(policy, rows, starts), expected, atol=1e-5)
    _, before = policy.predict(rows[0])
    kept = before[0].copy()
    again = [policy.predict(rows[1], before)[0] for _ in range(2)]  # a state that was handed in stays as it is
    np.testing.assert_array_equal(*again)
    np.testing.assert_array_equal(kept, before[0])
    with pytest.raises(PolicyKDError, match="has memory: use predict"):
        policy(rows[0, 0])
    with pytest.raises(PolicyKDError, match="the state has shape"):
        policy.predict(rows[0][:1], before)


def test_the_fast_policy_takes_histories_that_are_stacked_by_hand():
    for units in ({}, {"gru": 5, "bptt_steps": 5}):
        student = TeacherStudent(POINT, expert, config={**COPY, "history": 3, **units})
        rows, starts = observations(8, 2, seed=1), np.arange(8)[:, None] % 5 == np.zeros((1, 2))
        stacks = np.concatenate((rows, rows[::-1], 1 - rows), axis=-1)
        policy = Policy(student, 0, "numpy")
        np.testing.assert_allclose(follow(policy, stacks, starts), follow(student, stacks, starts), atol=1e-5)
    assert np.abs(Policy(TeacherStudent(POINT, expert, config={**COPY, "history": 3}), 0)(stacks[0, 0])).max() > 0


def test_sb3_evaluates_the_fast_policy_on_the_plain_task(student):
    actors = Policy(student, 0, "numpy"), OneLearner(student, 0)
    returns = [evaluate_policy(actor, seeded(Monitor(gym.make(POINT))), 2, warn=False)[0] for actor in actors]
    assert np.isclose(*returns, atol=1e-3)


def test_a_history_in_int8_is_pushed_as_by_hand(tmp_path):
    compiler()
    student = TeacherStudent(POINT, expert, config={**COPY, **SEES["history"]})
    rows = observations(len(STARTS))

    def stacked(count, starts):
        stacks, look = [], student.view.for_episode()
        for row, start in zip(rows[:count], starts[:count], strict=True):
            look = student.view.for_episode() if start else look
            stacks.append(look(row))
        return np.stack(stacks)

    to_c(student, 0, tmp_path / "c", "int8", rows, "full")
    first = stacked(len(rows) // 2, np.arange(len(rows)) == 0)
    by_hand, stacks = CompiledPolicy(quantise(flatten(deploy(student, 0)), first)), stacked(len(rows), STARTS)
    expected = np.stack([by_hand(stack) for stack in stacks])
    np.testing.assert_array_equal(play_in_c(tmp_path / "c", rows, STARTS), expected)


@pytest.mark.parametrize("sees", [sees for sees in REMEMBERS if "units" in sees or "gru" in SEES[sees]])
def test_units_in_int8_act_as_near_as_their_header_says(tmp_path, sees):
    """Along the half of an episode that did not calibrate; nearer than a student that forgets."""
    compiler()
    student = TeacherStudent(POINT, expert, backbone="sac", config={**COPY, **SEES[sees]})
    student.learner.actor.mul_(2)
    rows = observations(600)
    size = to_c(student, 0, tmp_path / "c", "int8", rows, "full")
    later, starts = rows[300:], np.arange(300) == 0
    wanted, forgetful = (follow(student, later[:, None], s[:, None])[:, 0] for s in (starts, np.ones(300)))
    half = student.action_scale.half_range
    distances = np.abs(play_in_c(tmp_path / "c", later, starts) - wanted) / half
    assert np.isclose(size.difference.worst, distances.max(), atol=1e-5) and size.difference.observations == 300
    assert np.isclose(size.difference.mean, distances.mean(), atol=1e-5)
    assert 1e-6 < size.difference.mean < 0.02 < np.abs(wanted - forgetful).mean()
    whole = to_c(student, 0, tmp_path / "whole", inputs="full")
    assert size.constants < 0.6 * whole.constants and size.state == whole.state
    text = (tmp_path / "c" / "policy.c").read_text(encoding="utf-8")
    assert "static const int8_t from_state_weight" in text and "static const int8_t from_input_weight" in text


@pytest.mark.parametrize("inputs", ["own", "full"])
def test_units_in_int8_are_calibrated_where_the_student_acts(tmp_path, inputs):
    student = TeacherStudent(POINT, expert, config={**COPY, "gru": 5, "history": 2, "student_observations": (2, 3)})
    size = to_c(student, 0, tmp_path / "c", "int8", inputs=inputs)
    assert size.difference.observations == 1000 and size.difference.mean < 0.02
    with pytest.raises(PolicyKDError, match="calibration needs 4 or more finite states"):
        to_c(student, 0, tmp_path / "other", "int8", np.zeros((9, 3)), inputs)
    with pytest.raises(PolicyKDError, match="leave as onnx, torchscript and c"):
        deploy(student, 0)


def test_onnx_in_int8_carries_the_state(tmp_path):
    pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    pytest.importorskip("onnxscript", reason="onnxscript is not installed")
    from policykd.export.onnx import _play, to_onnx_int8

    student = TeacherStudent(POINT, expert, config={**COPY, **SEES["units of a history"]})
    rows = observations(400)
    difference = to_onnx_int8(student, 0, tmp_path / "small.onnx", rows, "full")
    assert 1e-7 < difference.mean < 0.02 and difference.observations == 200
    starts = np.arange(200) == 0
    episodes = Episodes(student, 0, "full")
    actions = play_along(_play(tmp_path / "small.onnx"), episodes.shapes, rows[200:], starts)[0]
    distances = np.abs(actions - follow(student, rows[200:, None], starts[:, None])[:, 0])
    assert np.isclose((distances / student.action_scale.half_range).max(), difference.worst, atol=1e-5)
    import onnx

    kinds = {tensor.data_type for tensor in onnx.load(tmp_path / "small.onnx").graph.initializer}
    assert onnx.TensorProto.INT8 in kinds


def test_c_that_forgets_is_not_written(student, tmp_path, monkeypatch):
    class Forgetful:
        def __init__(self, policy):
            self.policy = policy

        def step(self, observation, start, state):
            return self.policy.step(observation, True, state)

    monkeypatch.setattr("policykd.export.policy.CompiledPolicy", Forgetful)
    with pytest.raises(PolicyKDError, match=r"from the learner \(allowed 1e-05\): not written"):
        to_c(student, 0, tmp_path / "c", inputs="full")
    assert list(tmp_path.iterdir()) == []


def test_without_a_compiler_its_arithmetic_is_checked(student, tmp_path, monkeypatch):
    def none():
        raise Unavailable("no C compiler found")

    monkeypatch.setattr(compiled, "find_compiler", none)
    size = to_c(student, 0, tmp_path / "c", inputs="full")
    assert not size.compiled and size.difference.worst <= 1e-5
    assert Policy(student, 0).computed_by == "numpy"


def test_files_are_checked_where_the_learner_has_been():
    """Elsewhere its normaliser clips everything, and any statistics would do."""
    student = TeacherStudent(POINT, expert, config={**COPY, **SEES["history"]})
    student.learner.observation_stats.mean.add_(1000)
    episodes = Episodes(student, 0, "full")
    plain = episodes.plain()
    assert episodes.check(over_episodes(plain.step), "it").worst < 1e-5
    plain.normaliser[0] -= 1
    with pytest.raises(PolicyKDError, match="from the learner"):
        episodes.check(over_episodes(plain.step), "it")
