"""Exports at the edges: coarse actions, sensors that fail, silent inputs, wide tasks, two policies in one program."""

import subprocess

import gymnasium as gym
import numpy as np
import pytest
import torch
from full_disk import full_disk
from sb3_agents import Lopsided
from stable_baselines3 import SAC
from test_export_c import SHORT, act_in_c, compiler
from test_export_memory import play_in_c
from test_student_memory import SEES
from test_teacher_student import COPY, expert
from tiny import POINT, TINY

from policykd import DualStudent, PolicyKDError, Teacher, TeacherStudent
from policykd.cli import main
from policykd.export import Policy, c_code, deploy
from policykd.export.c import to_c
from policykd.export.hub import to_hub_folder
from policykd.export.onnx import to_onnx, to_onnx_int8
from policykd.export.torchscript import to_torchscript
from policykd.export.zoo import to_zip

SAC_OF_TWO = {"backbone": "sac", "config": {**TINY, **SHORT}}


class FarFromZero(Lopsided):
    """Actions such as kelvins: a step of float32 at 1000 is 1.2e-4 of their half range."""

    action_space = gym.spaces.Box(np.array([1000, -1], np.float32), np.array([1001, 1], np.float32))


def test_what_is_no_path_is_refused_in_one_line():
    for write in (to_c, to_zip, to_onnx, to_onnx_int8, to_torchscript, to_hub_folder):
        with pytest.raises(PolicyKDError, match="export: 3 is not a path"):
            write(DualStudent(POINT, **SAC_OF_TWO), 0, 3)


def test_actions_that_float32_rounds_coarsely_are_exported(tmp_path):
    student = DualStudent(FarFromZero, **SAC_OF_TWO)
    assert to_c(student, 0, tmp_path / "c").difference.worst <= 2.5e-4
    assert to_zip(student, 0, tmp_path / "a.zip") <= 2.5e-4


class HeldStill(Lopsided):
    """Its first action cannot move."""

    action_space = gym.spaces.Box(np.array([0.5, -1], np.float32), np.array([0.5, 3], np.float32))


def test_a_file_of_an_action_that_cannot_move_says_its_sizes(tmp_path):
    """Read back without a task, as other files are; it was asked for one."""
    student = DualStudent(HeldStill, **SAC_OF_TWO)
    to_torchscript(student, 0, tmp_path / "a.pt")
    inputs = np.random.default_rng(0).normal(size=(5, 5)).astype(np.float32)
    read = Teacher.load(tmp_path / "a.pt", trust=True)
    np.testing.assert_allclose(read.predict(inputs)[0], student.predict(inputs, learner=0)[0], atol=1e-5)


class Precise(Lopsided):
    """Bounds that float32 rounds outwards, but for an action that cannot move."""

    action_space = gym.spaces.Box(np.array([-0.1, -0.3, 0.1]), np.array([0.3, 0.7, 0.1]), dtype=np.float64)


@pytest.mark.parametrize("by", ["c", "numpy", "module"])
def test_bounds_of_double_precision_are_not_overstepped(by):
    student = DualStudent(Precise, **SAC_OF_TWO)
    student.learner.actor.mul_(30)
    inputs = np.random.default_rng(0).normal(size=(100, 5)).astype(np.float32)
    if by == "c":
        compiler()
    policy = deploy(student, 0) if by == "module" else Policy(student, 0, by)
    actions = policy(torch.from_numpy(inputs)).numpy() if by == "module" else policy.predict(inputs)[0]
    low, high = (bound[:2] for bound in (Precise.action_space.low, Precise.action_space.high))
    moving = actions[:, :2].astype(np.float64)
    assert (moving >= low).all() and (moving <= high).all()
    assert (np.isclose(moving, low) | np.isclose(moving, high)).any(0).all()  # they reach them


def test_too_few_states_to_calibrate_on_are_counted_as_the_user_counts_them(tmp_path):
    """Half of them calibrate, and 2 of 2 are 1: it said that 2 are enough."""
    student, memory = DualStudent(Lopsided, **SAC_OF_TWO), {**COPY, **SEES["units"]}
    with pytest.raises(PolicyKDError, match=r"needs 3 or more finite states \(n, 5\), got \(2, 5\)"):
        to_c(student, 0, tmp_path / "c", "int8", np.ones((2, 5)))
    student = TeacherStudent(POINT, expert, backbone="sac", config=memory)
    with pytest.raises(PolicyKDError, match=r"needs 4 or more finite states \(n, 4\), got \(3, 4\)"):
        to_c(student, 0, tmp_path / "c", "int8", np.ones((3, 4)))


@pytest.mark.parametrize("column", [0, 1])
def test_only_the_coarse_action_may_be_so_far_off(tmp_path, monkeypatch, column):
    student = DualStudent(FarFromZero, **SAC_OF_TWO)
    act, off = student.actions_at, np.zeros(2, np.float32)
    off[column] = [4e-4, 2e-5][column]
    monkeypatch.setattr(student, "actions_at", lambda *a: act(*a) + off)
    with pytest.raises(PolicyKDError, match="not written"):
        to_torchscript(student, 0, tmp_path / "a.pt")


@pytest.mark.parametrize("sees", ["units", "units of a history"])
def test_a_new_episode_forgets_an_observation_that_was_nan(sees, tmp_path):
    """In the agent's own predict and in every format; NaN times 0 would stay NaN until the program ends."""
    compiler()
    student = TeacherStudent(POINT, expert, backbone="sac", config={**COPY, **SEES[sees]})
    rows = np.random.default_rng(0).normal(size=(6, 4)).astype(np.float32)
    rows[1], starts, last = np.nan, np.array([1, 0, 0, 1, 0, 0], bool), []
    for actor in (student, Policy(student, 0, "c"), Policy(student, 0, "numpy")):
        actions, state = [], None
        for row, start in zip(rows, starts, strict=True):
            action, state = actor.predict(row, state, np.array([start]))
            actions.append(action)
        assert np.isnan(actions[2]).all()
        last.append(np.stack(actions[3:]))
    to_c(student, 0, tmp_path / "c", inputs="full")
    last.append(play_in_c(tmp_path / "c", rows, starts)[3:])
    to_torchscript(student, 0, tmp_path / "a.pt", "full")
    program, shapes = torch.jit.load(tmp_path / "a.pt"), [(1, 2, 2)] * ("history" in sees) + [(1, 5)]
    parts, actions = [torch.zeros(shape) for shape in shapes], []
    for row, start in zip(rows, starts, strict=True):
        action, *parts = program(torch.from_numpy(row[None]), torch.tensor([float(start)]), *parts)
        actions.append(action[0].numpy())
    last.append(np.stack(actions[3:]))
    for actions in last:
        np.testing.assert_allclose(actions, last[0], atol=1e-5)


class Damped(Lopsided):
    """Its third observation dies away below what float32 has a reciprocal for."""

    def _observe(self):
        return super()._observe() * np.array([1, 1, 1e-40, 1, 1], np.float32)


def test_an_input_that_dies_away_is_silent_in_int8(tmp_path):
    """Its levels per unit were infinite: the C did not compile, and was written as if there were no compiler."""
    compiler()
    student = DualStudent(Damped, **SAC_OF_TWO)
    assert to_c(student, 0, tmp_path / "c", "int8").compiled
    assert np.isfinite(act_in_c(tmp_path / "c", 2, np.ones((3, 5), np.float32))).all()


@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan])
def test_a_constant_that_c_cannot_say_is_refused(value):
    with pytest.raises(PolicyKDError, match="which has no constant in C"):
        c_code.number(value)


class Wide(Lopsided):
    """More observations than a C short counts."""

    observation_space = gym.spaces.Box(-np.inf, np.inf, (33_000,), np.float32)

    def _observe(self):
        return self.np_random.standard_normal(33_000).astype(np.float32)


def test_columns_beyond_a_short_are_read(tmp_path):
    compiler()
    config = {**COPY, "student_observations": (32_999, 0)}
    student = TeacherStudent(Wide, lambda observation: observation[:2], backbone="sac", config=config)
    to_c(student, 0, tmp_path / "c", inputs="full")
    rows = np.random.default_rng(0).normal(size=(5, 33_000)).astype(np.float32)
    np.testing.assert_allclose(act_in_c(tmp_path / "c", 2, rows), student.predict(rows)[0], atol=2e-5)


def test_a_zip_is_named_as_sb3_names_it(tmp_path):
    student = DualStudent(Lopsided, **SAC_OF_TWO)
    to_zip(student, 0, tmp_path / "student")
    assert SAC.load(tmp_path / "student.zip").predict(np.zeros(5))[0].shape == (2,)
    with pytest.raises(PolicyKDError, match="exists"):
        to_zip(student, 0, tmp_path / "student")


@pytest.mark.parametrize("by", ["c", "numpy"])
@pytest.mark.parametrize("observation", [3.0, np.ones(1), np.ones((2, 3))])
def test_the_fast_policy_refuses_an_observation_of_another_size(by, observation):
    if by == "c":
        compiler()
    with pytest.raises(PolicyKDError, match="observations have 5 numbers"):
        Policy(DualStudent(Lopsided, **SAC_OF_TWO), 0, by)(observation)


def test_two_policies_live_in_one_program(tmp_path):
    """As the documentation says: each with a name of its own."""
    student, names = DualStudent(Lopsided, **SAC_OF_TWO), ("left_act", "right_act")
    for k, name in enumerate(names):
        to_c(student, k, tmp_path / name)
        command = [*compiler(), f"-Dpolicy_act={name}", "-c", "-o", f"{name}.o", str(tmp_path / name / "policy.c")]
        subprocess.run(command, cwd=tmp_path, check=True)
    (tmp_path / "main.c").write_text(
        '#include <stdio.h>\n#include "left_act/policy.h"\n'
        "void left_act(const float *, float *);\nvoid right_act(const float *, float *);\n"
        "int main(void) { float o[POLICY_OBSERVATIONS] = {1, 2, 3, 4, 5}, a[2 * POLICY_ACTIONS];"
        "left_act(o, a); right_act(o, a + POLICY_ACTIONS); return !fwrite(a, sizeof a, 1, stdout); }\n"
    )
    subprocess.run([*compiler(), "-o", "main", "main.c", "left_act.o", "right_act.o"], cwd=tmp_path, check=True)
    out = subprocess.run([str(tmp_path / "main")], capture_output=True, check=True).stdout
    inputs = np.arange(1, 6, dtype=np.float32)
    expected = np.concatenate([student.predict(inputs, learner=k)[0] for k in (0, 1)])
    np.testing.assert_allclose(np.frombuffer(out, np.float32), expected, atol=1e-5)


def test_a_format_that_c_refuses_is_told_before_the_others_are_written(tmp_path, capsys):
    """What was written before it would bar the corrected command."""
    student = DualStudent(POINT, backbone="sac", config={**TINY, **SHORT, "activation_fn": "elu"})
    student.save(tmp_path / "agent")
    words = ["export", str(tmp_path / "agent.safetensors"), "--out", str(tmp_path / "out"), "--format", "torchscript"]
    with pytest.raises(SystemExit):
        main([*words, "c"])
    assert "C and NumPy support only ReLU and tanh" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_no_observations_of_a_student_that_sees_a_function_are_no_actions():
    config = {**COPY, "student_observations": lambda observations: observations[:, :2]}
    student = TeacherStudent(POINT, expert, backbone="sac", config=config)
    assert student.predict(np.zeros((0, 4), np.float32))[0].shape == (0, 2)


@pytest.mark.parametrize("write", [to_c, to_torchscript, to_zip, to_onnx])
def test_a_learner_that_diverged_is_one_line_and_another_leaves(tmp_path, write):
    if write is to_onnx:
        pytest.importorskip("onnxscript", reason="onnxscript is not installed")
    student = DualStudent(Lopsided, **SAC_OF_TWO)
    student.learner.actor[0, 3] = np.nan
    with pytest.raises(PolicyKDError, match="learner 0 has weights that are not finite: training diverged"):
        write(student, 0, tmp_path / "a.x")
    assert list(tmp_path.iterdir()) == []
    write(student, 1, tmp_path / "a.x")


def test_a_diverged_student_with_a_memory_is_one_line(tmp_path):
    student = TeacherStudent(POINT, expert, backbone="sac", config={**COPY, **SEES["units"]})
    student.learner.actor[0, 3] = np.nan
    for export in (to_torchscript, to_c):
        with pytest.raises(PolicyKDError, match="learner 0 has weights that are not finite"):
            export(student, 0, tmp_path / "a")


@pytest.mark.parametrize("write", [to_c, to_torchscript, to_zip])
def test_a_link_to_nowhere_is_not_replaced(tmp_path, write):
    path = tmp_path / "a.x"
    path.symlink_to(tmp_path / "nowhere")
    with pytest.raises(PolicyKDError, match="exists: choose another"):
        write(DualStudent(Lopsided, **SAC_OF_TWO), 0, path)
    assert path.is_symlink() and [file.name for file in tmp_path.iterdir()] == ["a.x"]


def test_a_name_that_is_no_unicode_is_one_line(tmp_path):
    with pytest.raises(PolicyKDError, match="is not a valid UTF-8 name: choose another one"):
        to_torchscript(DualStudent(Lopsided, **SAC_OF_TWO), 0, tmp_path / "a\udcff.pt")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("write", [to_zip, to_onnx, to_torchscript, to_c])
def test_a_full_disk_is_told_with_the_file_and_leaves_nothing(tmp_path, write):
    """Torch's own writer of TorchScript ended the process there."""
    if write is to_onnx:
        pytest.importorskip("onnxscript")
    student, path = DualStudent(POINT, **SAC_OF_TWO), tmp_path / "new" / "policy"
    with full_disk(100), pytest.raises(OSError, match=r"File too large: .*new/policy(\.zip)?'$"):
        write(student, 0, path)
    assert not list(tmp_path.iterdir())
