"""Environments stepped in threads: the numbers of those that step in turn, their errors, and only where it is safe."""

import threading

import gymnasium as gym
import numpy as np
import pytest
from tiny import POINT

from policykd import DualStudent, PolicyKDError
from policykd.core.networks import state_tensors
from policykd.tasks import stepping
from policykd.tasks.contract import TaskError
from policykd.tasks.spaces import find_task
from policykd.tasks.stepping import Threaded
from policykd.tasks.vector import LearnerEnvs

CONFIG = {"net_arch": (8,), "batch_size": 8, "distill_batch_size": 8, "learning_starts": 20, "buffer_size": 500}


def stepped(threads):
    envs = LearnerEnvs(find_task("InvertedPendulum-v5").make, 5, None)
    envs.start(list(range(5)))
    generator, found = np.random.default_rng(0), []
    with envs.in_threads(threads):
        assert (envs.threaded is not None) == (threads > 1)
        if envs.threaded is not None:
            envs.threaded.pay = True
        for _ in range(130):
            step = envs.advance(generator.uniform(-1, 1, (5, 1)).astype(np.float32), scaled=True)
            found.append((step.observations, step.next_observations, step.rewards, step.dones, step.truncated))
    assert envs.threaded is None
    return found


@pytest.mark.parametrize("threads", [2, 3, 9])
def test_threads_change_no_number(threads):
    alone, shared = stepped(1), stepped(threads)
    assert any(step[3].any() for step in alone)
    for one, other in zip(alone, shared, strict=True):
        assert all(map(np.array_equal, one, other))


def test_both_ways_are_tried_and_the_faster_one_is_kept(monkeypatch):
    clock = iter(range(10**6))
    monkeypatch.setattr(stepping.time, "perf_counter", lambda: float(next(clock)) ** 2)  # ever slower
    names, threaded = [], Threaded(4, 2)
    seen = {0: 0, 1: 0, 2: 0, 3: 0}

    def step(part):
        names.append(threading.current_thread().name)
        for e in part:
            seen[e] += 1

    for _ in range(2 * stepping.TRIALS + 5):
        threaded.run(step)
    assert set(seen.values()) == {2 * stepping.TRIALS + 5}
    assert threaded.pay is False and all(name == names[-1] for name in names[-5:])  # the second of a pair took longer
    threaded.close()


def test_the_first_error_is_told_and_the_threads_end():
    threaded = Threaded(4, 4)
    threaded.pay = True

    def step(part):
        for e in part:
            if e:
                raise TaskError(f"environment {e}")

    with pytest.raises(TaskError, match="environment 1"):
        threaded.run(step)
    threaded.close()


class Shared(gym.Env):
    """A task of somebody else's, whose copies share a number."""

    observation_space = gym.spaces.Box(-1, 1, (2,), np.float32)
    action_space = gym.spaces.Box(-1, 1, (1,), np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return np.zeros(2, np.float32), {}

    def step(self, action):
        assert threading.current_thread() is threading.main_thread()
        return np.zeros(2, np.float32), 0.0, False, False, {}


def test_tasks_of_others_step_one_by_one():
    envs = LearnerEnvs(find_task(Shared).make, 4, None)
    envs.start([0, 1, 2, 3])
    with envs.in_threads(4):
        assert envs.threaded is None
        envs.advance(np.zeros((4, 1), np.float32), scaled=True)


def test_a_run_is_the_same_in_threads():
    first, second = (
        DualStudent(POINT, backbone="td3", seeds=(0, 1), config=CONFIG, threads=threads, compile=False).learn(240)
        for threads in (1, 3)
    )
    for name, value in state_tensors(first.learner).items():
        assert value.equal(state_tensors(second.learner)[name]), name
    with pytest.raises(PolicyKDError):
        DualStudent(POINT, threads=0)
