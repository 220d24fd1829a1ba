"""Threads of the kernels in training: the same numbers whatever their number, also when a run goes on with another."""

import pytest
import torch
from tiny import POINT, TINY

from policykd import DualStudent, PolicyKDError, TeacherStudent, native
from policykd.benchmark import local
from policykd.benchmark.matrix import MatrixOptions
from policykd.benchmark.worker import CELL
from policykd.cli import main
from policykd.core.networks import state_tensors
from policykd.native import kernels

# Eight learners of 64 x 64 with 64 samples: large enough for calls to be shared out.
CONFIG = {**TINY, "net_arch": (64, 64), "batch_size": 64, "distill_batch_size": 64, "n_eval_episodes": 0}
STEPS = 2 * 40
needs_kernels = pytest.mark.skipif(bool(native.reason()), reason=f"no native kernels: {native.reason()}")


def make(**arguments):
    return DualStudent(POINT, backbone="sac", seeds=range(4), config=CONFIG, compile=False, device="cpu", **arguments)


def allowed():
    """Threads that the kernels may use now."""
    now = kernels.set_threads(1)
    kernels.set_threads(now)
    return now


def tensors(agent):
    return {**state_tensors(agent.learner), **state_tensors(agent.recipe.distillation)}


@needs_kernels
@pytest.mark.parametrize("threads", [2, 3])
def test_a_run_is_the_same_on_any_number_of_threads(threads):
    alone, shared = make(threads=1).learn(STEPS), make(threads=threads).learn(STEPS)
    assert shared.recipe.n_updates > 10
    expected = tensors(alone)
    assert all(torch.equal(tensor, expected[name]) for name, tensor in tensors(shared).items())


@needs_kernels
def test_a_run_goes_on_bit_for_bit_on_another_number_of_threads(tmp_path):
    whole, half = make(threads=2).learn(STEPS), make(threads=3)
    half.learn(STEPS, callback=lambda local_variables, _: half.num_timesteps < STEPS // 2)
    half.save(tmp_path / "half", include_replay=True)
    again = DualStudent.load(tmp_path / "half.safetensors", device="cpu")
    again.threads = 1
    again.learn(STEPS - again.num_timesteps)
    expected = tensors(whole)
    assert all(torch.equal(tensor, expected[name]) for name, tensor in tensors(again).items())


@needs_kernels
def test_a_run_has_the_threads_it_was_given_and_auto_those_of_torch(monkeypatch):
    seen = []

    def look(local_variables, _):
        seen.append((allowed(), torch.get_num_threads()))
        return False

    before, outside = torch.get_num_threads(), allowed()
    make(threads=3).learn(2, callback=look)
    torch.set_num_threads(1)
    make().learn(2, callback=look)
    monkeypatch.setenv("POLICYKD_THREADS", "5")
    make().learn(2, callback=look)
    student = TeacherStudent(POINT, lambda observations: observations[2:4], seeds=(0, 1), config={"net_arch": (8,)})
    student.threads = 4
    student.learn(2, callback=look)
    torch.set_num_threads(before)
    assert seen == [(3, 1), (1, 1), (5, 1), (4, 1)]  # torch itself computes on one
    assert allowed() == outside


@pytest.mark.parametrize("threads", [0, -1, 1.5, True, "many"])
def test_threads_that_are_none_are_refused(threads):
    with pytest.raises(PolicyKDError, match=r"threads=.* must be a positive number"):
        make(threads=threads)


@needs_kernels
def test_the_command_line_says_how_many(monkeypatch, tmp_path):
    seen = []
    monkeypatch.setattr(DualStudent, "learn", lambda agent, *_, **__: seen.append(agent.threads) or agent)
    start = ["train", "--env", POINT, "--run-dir", str(tmp_path / "run"), "--n-eval-episodes", "0"]
    main([*start, "--threads", "3"])
    assert seen == [3]


def test_jobs_times_threads_are_at_most_the_cores(monkeypatch, tmp_path):
    monkeypatch.setattr(local, "cores", lambda: 8)
    assert [local.check_jobs(None, threads) for threads in (1, 2, 3, 8)] == [8, 4, 2, 1]
    with pytest.raises(PolicyKDError, match="--jobs 5 must be from 1 to 4, for --threads 2 each"):
        local.check_jobs(5, 2)
    with pytest.raises(PolicyKDError, match="--threads 9 must be from 1 to the 8 cores"):
        local.check_jobs(None, 9)
    assert MatrixOptions().threads == 1
    environments = []

    def start(command, env, **_):
        environments.append(env)
        raise OSError("enough seen")

    monkeypatch.setattr(local.subprocess, "Popen", start)
    cell = type("Cell", (), {"name": "cell", "plain": dict})()
    (_started_not,) = local.run([cell], tmp_path, 2, 4)
    assert (tmp_path / "cell" / CELL).exists()
    assert environments[0]["POLICYKD_THREADS"] == "4" and environments[0]["OMP_NUM_THREADS"] == "1"
