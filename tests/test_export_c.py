"""A policy in C, in int8 and as a fast Python function acts as the learner did, and says what it takes."""

import re
import subprocess
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import torch
from sb3_agents import Lopsided, at_the_bounds, observations
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor
from tiny import POINT, TINY, contents

from policykd import DualStudent, PolicyKDError, Teacher, TeacherStudent
from policykd.cli import main
from policykd.export import Policy, c_code, compiled, deploy
from policykd.export.c import to_c
from policykd.export.calibration import visited_states
from policykd.export.compiled import CompiledPolicy
from policykd.export.int8 import quantise
from policykd.export.onnx import to_onnx_int8
from policykd.export.plain import flatten
from policykd.native.build import Unavailable, find_compiler
from policykd.training.loading import load_policy

SHORT = {"eval_freq": 0, "n_eval_episodes": 1}
ROLLOUTS = {"n_steps": 32, "batch_size": 16, "net_arch": (8, 6), "distill_batch_size": 8, **SHORT}
STUDENTS = {
    "sac": ("sac", {**TINY, **SHORT}),
    "ppo, normalised": ("ppo", {**ROLLOUTS, "normalize_observation": True}),
    "ppo, relu, one layer": ("ppo", {**ROLLOUTS, "activation_fn": "relu", "net_arch": (7,)}),
}


def compiler():
    try:
        return find_compiler()
    except Unavailable as unavailable:
        pytest.skip(str(unavailable))


@pytest.fixture(scope="module", params=STUDENTS)
def student(request):
    backbone, config = STUDENTS[request.param]
    return at_the_bounds(backbone, config)


def act_in_c(folder, size, inputs):
    """Actions of the written files, by a program of their own that reads floats and prints floats."""
    (folder / "main.c").write_text(
        '#include <stdio.h>\n#include "policy.h"\n'
        "int main(void) { float o[POLICY_OBSERVATIONS], a[POLICY_ACTIONS];"
        "while (fread(o, sizeof o, 1, stdin)) { policy_act(o, a); fwrite(a, sizeof a, 1, stdout); } return 0; }\n"
    )
    strict = ["-std=c99", "-O2", "-Wall", "-Wextra", "-Wconversion", "-pedantic", "-Werror"]
    program = folder / "main"
    command = [*compiler(), *strict, "-o", str(program), str(folder / "main.c"), str(folder / "policy.c")]
    made = subprocess.run(command, capture_output=True, text=True)  # and no -lm
    assert made.returncode == 0, made.stderr
    out = subprocess.run([str(program)], input=inputs.tobytes(), capture_output=True, check=True).stdout
    return np.frombuffer(out, np.float32).reshape(len(inputs), size)


def test_the_written_c_is_the_learner_at_a_thousand_observations(student, tmp_path):
    compiler()
    size = to_c(student, 1, tmp_path / "policy")
    assert size.compiled and size.difference.worst <= 1e-5
    inputs = observations(1000)
    expected = student.predict(inputs, learner=1)[0]
    space = student.action_space
    assert np.isclose(expected, space.low, atol=1e-3).any() or np.isclose(expected, space.high, atol=1e-3).any()
    np.testing.assert_allclose(act_in_c(tmp_path / "policy", 2, inputs), expected, rtol=1e-5, atol=1e-5)


def test_the_written_int8_is_as_near_as_its_header_says(student, tmp_path):
    compiler()
    states = observations(2000, seed=7)
    size = to_c(student, 1, tmp_path / "policy", "int8", states)
    actions = act_in_c(tmp_path / "policy", 2, states[1::2])  # the thousand that did not calibrate
    distances = np.abs(actions - student.predict(states[1::2], learner=1)[0]) / student.action_scale.half_range
    assert np.isclose(size.difference.worst, distances.max(), atol=1e-5)
    assert np.isclose(size.difference.mean, distances.mean(), atol=1e-5)
    assert 1e-6 < size.difference.mean < 0.1  # quantised, and not broken
    text = (tmp_path / "policy" / "policy.h").read_text(encoding="utf-8")
    assert f"differs by at most {size.difference.worst:.1e}, on average {size.difference.mean:.1e}" in text


@pytest.mark.parametrize("precision", ["float32", "int8"])
def test_numpy_computes_what_c_computes(student, precision):
    compiler()
    plain = flatten(deploy(student, 1))
    plain = plain if precision == "float32" else quantise(plain, observations(500, seed=3))
    one, inputs = CompiledPolicy(plain), observations(300)
    np.testing.assert_allclose(np.stack([one(x) for x in inputs]), plain(inputs), rtol=2e-5, atol=2e-5)


def test_a_mean_far_from_zero_costs_no_accuracy():
    backbone, config = STUDENTS["ppo, normalised"]
    agent = DualStudent(Lopsided, backbone=backbone, config=config).learn(128)
    agent.learner.observation_stats.mean.add_(12345.678)
    inputs = (12345.678 + 5 * np.random.default_rng(0).standard_normal((200, 5))).astype(np.float32)
    expected = agent.predict(inputs, learner=0)[0]
    assert expected.std(0).min() > 1e-3
    np.testing.assert_allclose(Policy(agent, 0).predict(inputs)[0], expected, atol=2e-5)


def test_each_observation_has_a_range_of_its_own():
    """One column a thousand times wider than another must not blur it."""
    agent = DualStudent(Lopsided, backbone="sac", config={**TINY, **SHORT, "net_arch": (32, 32)})
    plain = flatten(deploy(agent, 0))
    width = np.array([1, 1, 1, 1, 1000], np.float32)
    plain.layers[0].weight[4] /= 1000  # whose weights are small in turn
    states = observations(1000) * width
    assert np.abs(quantise(plain, states)(states) - plain(states)).mean() < 0.02


def test_sizes_are_those_of_the_constants(student, tmp_path):
    whole, small = (to_c(student, 0, tmp_path / p, p, observations()) for p in ("float32", "int8"))
    for size, name, kinds in ((whole, "float32", {"float": 4}), (small, "int8", {"float": 4, "int8_t": 1})):
        text = (tmp_path / name / "policy.c").read_text(encoding="utf-8")
        found = re.findall(r"static const (\w+) \w+\[(\d+)\]", text)
        assert size.constants == sum(kinds[kind] * int(count) for kind, count in found)
        header = (tmp_path / name / "policy.h").read_text(encoding="utf-8")
        assert f"flash: {size.constants:,} bytes of constants" in header
        assert f"RAM: buffers of {size.buffers:,} bytes on the stack" in header
    assert small.buffers < whole.buffers
    assert "malloc" not in text and "<math.h>" not in text


def test_without_a_compiler_the_files_are_written_and_say_so(student, tmp_path, monkeypatch):
    def none():
        raise Unavailable("no C compiler found")

    monkeypatch.setattr(compiled, "find_compiler", none)
    size = to_c(student, 0, tmp_path / "policy")
    assert not size.compiled and size.code is None
    text = (tmp_path / "policy" / "policy.h").read_text(encoding="utf-8")
    assert "code not measured" in text and "nothing compiles here" in text
    policy = Policy(student, 1)
    assert policy.computed_by == "numpy"
    with pytest.raises(PolicyKDError, match=r"cannot be compiled here \(no C compiler found\)"):
        Policy(student, 1, computed_by="c")
    np.testing.assert_allclose(
        policy.predict(observations())[0], student.predict(observations(), learner=1)[0], atol=2e-5
    )


def test_the_fast_policy_is_the_learner(student):
    policy, inputs = Policy(student, 1), observations(50)
    expected = student.predict(inputs, learner=1)[0]
    np.testing.assert_allclose(policy.predict(inputs)[0], expected, atol=2e-5)
    first = policy(inputs[0])
    policy(inputs[1])  # answers are no views of one buffer
    np.testing.assert_allclose(first, expected[0], atol=2e-5)
    np.testing.assert_allclose(policy(inputs[0].astype(np.float64)), expected[0], atol=2e-5)
    assert (policy.observation_size, policy.action_size) == (5, 2)
    with pytest.raises(PolicyKDError, match=r"have 5 numbers, got an array of shape \(3,\)"):
        policy.predict(np.zeros(3, np.float32))


def test_the_fast_policy_is_read_from_a_run_and_evaluates_as_sb3s_do(tmp_path):
    agent = DualStudent(POINT, config={**TINY, **SHORT}, run_dir=tmp_path / "run").learn(40)
    policy = load_policy(tmp_path / "run", learner=0)
    returns = [
        evaluate_policy(actor, seeded(Monitor(gym.make(POINT))), n_eval_episodes=3)[0]
        for actor in (policy, OneLearner(agent, 0))
    ]
    assert np.isclose(*returns, atol=1e-3)
    with pytest.raises(PolicyKDError, match="learner 9 does not exist"):
        load_policy(tmp_path / "run", learner=9)


@pytest.fixture(scope="module")
def partial():
    """It sees its goal in turned columns, one of them twice."""
    config = {**ROLLOUTS, "student_observations": (3, 1, 3), "normalize_observation": True}
    return TeacherStudent(POINT, lambda o: np.clip(5 * o[..., 2:], -1, 1), config=config)


def test_the_fast_policy_takes_the_tasks_observation_and_the_students_part(partial):
    policy, whole = Policy(partial, 0), np.random.default_rng(0).normal(size=(6, 2, 4)).astype(np.float32)
    expected = partial.predict(whole)[0]
    for seen in (whole, partial.view(whole)):
        np.testing.assert_allclose(policy.predict(seen)[0], expected, atol=2e-5)
        np.testing.assert_allclose(policy(seen[0, 0]), expected[0, 0], atol=2e-5)
    assert evaluate_policy(policy, Monitor(gym.make(POINT)), n_eval_episodes=1, warn=False)[0] < 0
    with pytest.raises(PolicyKDError, match=r"have 4 numbers \(or 3 that the policy reads\), got an array of shape"):
        policy.predict(np.zeros(5, np.float32))


def test_int8_picks_what_the_student_sees(partial, tmp_path, capsys):
    """Exactly as it acts on what is picked by hand, and nothing else of an observation matters."""
    compiler()
    whole = np.random.default_rng(0).normal(size=(60, 4)).astype(np.float32)
    to_c(partial, 0, tmp_path / "own", "int8", partial.view(whole))
    partial.save(tmp_path / "student")
    np.save(tmp_path / "states.npy", whole)
    flags = ["--format", "c-int8", "--inputs", "full", "--states", str(tmp_path / "states.npy")]
    main(["export", str(tmp_path / "student.safetensors"), *flags, "--out", str(tmp_path / "out")])
    assert "differs by at most" in capsys.readouterr().out
    full = tmp_path / "out" / "PolicyKD-PointReach-v0_c_int8"
    expected = act_in_c(tmp_path / "own", 2, partial.view(whole))
    whole[:, (0, 2)] = np.nan
    np.testing.assert_array_equal(act_in_c(full, 2, whole), expected)


class OneLearner:
    def __init__(self, agent, k):
        self.agent, self.k = agent, k

    def predict(self, observation, **options):
        return self.agent.predict(observation, learner=self.k, **options)


def seeded(env):
    env.reset(seed=0)
    return env


def test_onnx_in_int8(tmp_path):
    pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    pytest.importorskip("onnxscript", reason="onnxscript is not installed")
    backbone, config = STUDENTS["ppo, normalised"]
    student = DualStudent(Lopsided, backbone=backbone, config=config).learn(128)
    states = observations(600, seed=7)
    difference = to_onnx_int8(student, 1, tmp_path / "small.onnx", states)
    assert 1e-7 < difference.mean < 0.1 and difference.observations == 300
    teacher = Teacher.load(tmp_path / "small.onnx")  # it still says what it reads
    distances = np.abs(teacher.predict(states[1::2])[0] - student.predict(states[1::2], learner=1)[0])
    assert np.isclose((distances / student.action_scale.half_range).max(), difference.worst, atol=1e-5)
    import onnx

    kinds = {tensor.data_type for tensor in onnx.load(tmp_path / "small.onnx").graph.initializer}
    assert onnx.TensorProto.INT8 in kinds
    assert [file.name for file in tmp_path.iterdir()] == ["small.onnx"]


def test_int8_that_acts_otherwise_is_not_written(tmp_path, monkeypatch):
    agent = DualStudent(Lopsided, backbone="sac", config={**TINY, **SHORT})
    act, half = agent.actions_at, agent.action_scale.half_range
    monkeypatch.setattr(agent, "actions_at", lambda *a: act(*a) + 0.2 * half)
    monkeypatch.setattr("policykd.export.equivalence.TOLERANCE", 1.0)
    with pytest.raises(PolicyKDError, match=r"in int8 is on average .* \(allowed 0.1\): not written; calibrate"):
        to_c(agent, 0, tmp_path / "out", "int8", observations())
    assert list(tmp_path.iterdir()) == []


def test_visited_states_are_those_of_the_task_and_reproducible():
    agent = DualStudent(POINT, config=TINY)
    states = visited_states(agent, 0, count=120)
    assert states.shape == (120, 4) and agent.observation_space.contains(states[0])
    assert len(np.unique(states[:, 2:] + states[:, :2], axis=0).round(3)) >= 3  # goals of three episodes
    assert np.array_equal(states, visited_states(agent, 0, count=120))


@pytest.mark.parametrize("states", [np.zeros((5, 3)), np.zeros(4), np.full((5, 4), np.nan), np.zeros((1, 4))])
def test_states_that_cannot_calibrate_are_refused(tmp_path, states):
    with pytest.raises(PolicyKDError, match=r"calibration needs 3 or more finite states \(n, 4\), got"):
        to_c(DualStudent(POINT, config=TINY), 0, tmp_path / "out", "int8", states)


def test_numbers_in_c_are_exact():
    for value in (*np.random.default_rng(0).standard_normal(1000).astype(np.float32), 1e-30, 5.0, -0.0, 3e8):
        text = c_code.number(value)
        assert text.endswith("f") and ("." in text or "e" in text) and np.float32(text[:-1]) == np.float32(value)


def test_the_command_writes_c_and_int8_and_says_their_sizes(tmp_path, capfd):
    DualStudent(POINT, config={**TINY, **SHORT}, run_dir=tmp_path / "run").learn(40)
    np.save(tmp_path / "states.npy", np.random.default_rng(0).uniform(-1, 1, (50, 4)))
    command = ["export", str(tmp_path / "run"), "--format", "c", "c-int8", "--out", str(tmp_path / "out")]
    main([*command, "--states", str(tmp_path / "states.npy")])
    name = "PolicyKD-PointReach-v0"
    assert sorted(contents(tmp_path / "out")) == sorted(
        f"{name}_{kind}/policy.{end}" for kind in ("c", "c_int8") for end in "ch"
    )
    said = capfd.readouterr().out
    assert said.count("bytes of constants") == said.count("RAM: buffers of") == said.count("differs by at most") == 2
    assert "(25 observations; compiled)" in said or "in NumPy" in said
    with pytest.raises(SystemExit):
        main(command)
    assert "exists: choose another --out" in capfd.readouterr().err
    (tmp_path / "bad.npy").write_bytes(b"\x80\x04N.")
    with pytest.raises(SystemExit):
        main([*command[:-1], str(tmp_path / "else"), "--states", str(tmp_path / "bad.npy")])
    assert "cannot be read as a .npy file" in capfd.readouterr().err
    np.save(tmp_path / "other.npy", np.zeros((50, 3)))
    with pytest.raises(SystemExit):
        main([*command[:-1], str(tmp_path / "else"), "--states", str(tmp_path / "other.npy")])
    assert "calibration needs 3 or more finite states (n, 4)" in capfd.readouterr().err
    assert not (tmp_path / "else").exists()  # no float32 either, though it was asked for first
    with pytest.raises(SystemExit):
        main([*command[:3], "c", "--out", str(tmp_path / "else"), "--states", str(tmp_path / "states.npy")])
    assert "states: they only calibrate int8" in capfd.readouterr().err


def test_layers_that_c_does_not_know_are_refused():
    agent = DualStudent(POINT, config=TINY)
    policy = deploy(agent, 0)
    policy.network[1] = torch.nn.ELU()
    with pytest.raises(PolicyKDError, match="support only ReLU and tanh, not ELU, ReLU: use onnx"):
        flatten(policy)


def test_c_that_acts_otherwise_is_not_written(tmp_path, monkeypatch):
    agent = DualStudent(Lopsided, backbone="sac", config={**TINY, **SHORT})
    monkeypatch.setattr("policykd.export.policy.CompiledPolicy", lambda plain: lambda o: plain(o) + np.float32(1e-3))
    with pytest.raises(PolicyKDError, match=r"from the learner \(allowed 1e-05\): not written"):
        to_c(agent, 0, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_the_figures_in_the_docs_are_the_measured_ones():
    root = Path(__file__).parent.parent
    measured = (root / "results/latency/latency.md").read_text(encoding="utf-8").partition("| format")
    assert "".join(measured[1:]) in (root / "docs/export.md").read_text(encoding="utf-8")
