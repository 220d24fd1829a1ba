"""Students that see a part of a vector's observations, or the latest few parts, beside those of single environments."""

from functools import partial

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from tiny import POINT, unlike
from vectors import Pendulums

from policykd import TeacherStudent
from policykd.core.networks import state_tensors
from policykd.tasks.batched import find_vector
from policykd.tasks.groups import groups_of
from policykd.tasks.partial import PartialEnvs
from policykd.tasks.views import view_of

CONFIG = {"round_steps": 40, "round_updates": 5, "net_arch": (8,), "n_eval_episodes": 2, "eval_freq": 0}
CONFIG |= {"allow_weak_teacher": True, "teacher_episodes": 2, "distill_batch_size": 16}


def point():
    return gym.make(POINT, max_episode_steps=13)


def towards(observation):
    return np.clip(observation[2:4] - observation[:2], -1, 1) if len(observation) > 3 else -observation[:2]


def swing(observation):
    return np.clip(-observation[1:2] - 0.1 * observation[2:3], -2, 2)


def students(env, teacher, **changes):
    return TeacherStudent(env, teacher, seeds=(3,), config={**CONFIG, **changes}, device="cpu")


@pytest.mark.parametrize("history", [1, 3])
@pytest.mark.parametrize("mode", [AutoresetMode.SAME_STEP, AutoresetMode.NEXT_STEP])
def test_copies_in_a_vector_give_the_numbers_of_as_many_environments(mode, history):
    seen = {"student_observations": (0, 1), "history": history}
    alone = students(point, towards, n_envs=3, **seen).learn(120)
    together = students(SyncVectorEnv([point] * 3, autoreset_mode=mode), towards, **seen).learn(120)
    assert isinstance(together.envs, PartialEnvs) and alone.dataset.storage.shape[-1] > 2 * history
    assert torch.equal(alone.dataset.storage, together.dataset.storage)
    for name, value in state_tensors(alone.learner).items():
        assert torch.equal(value, state_tensors(together.learner)[name]), name
    np.testing.assert_array_equal(alone.evaluations[-1].returns, together.evaluations[-1].returns)


@pytest.mark.parametrize("seen", [("history", 1), ("history", 3), ("function", 2)], ids=str)
def test_tensors_give_the_numbers_of_arrays_and_the_teacher_sees_all(seen):
    kind, history = seen
    part = (0, 1) if kind == "history" else lambda observations: observations[:, :2] * 2
    changes = {"n_envs": 4, "student_observations": part, "history": history}
    first, second = (
        students(partial(Pendulums, tensors=tensors), swing, **changes).learn(160) for tensors in (False, True)
    )
    torch.testing.assert_close(first.dataset.storage, second.dataset.storage)
    envs = second.envs
    assert isinstance(envs, PartialEnvs) and isinstance(envs.full_observation, torch.Tensor)
    assert second.collector.observations.shape == (4, 2 * history) and envs.full_observation.shape == (4, 3)
    whole = envs.full_observation.numpy()
    answered = second.tutor.answers()[0, :, 0].numpy() * 2  # the task's bounds are -2 and 2
    np.testing.assert_allclose(answered, [swing(row)[0] for row in whole], atol=1e-5)
    latest = second.collector.observations.view(4, history, 2)[:, -1]
    torch.testing.assert_close(latest, envs.full_observation[:, :2] * (1 if kind == "history" else 2))


@pytest.mark.parametrize("method", ["dagger", "kickstarting"])
def test_a_run_with_views_on_a_vector_goes_on_exactly(tmp_path, method):
    make = partial(Pendulums, mode=AutoresetMode.SAME_STEP)

    def agent():
        changes = {"n_envs": 2, "student_observations": (0, 1), "history": 2}
        changes |= {"n_steps": 20, "batch_size": 20} if method == "kickstarting" else {}
        return TeacherStudent(make, swing, method=method, config={**CONFIG, **changes}, device="cpu")

    whole, half = agent().learn(160), agent()
    half.learn(160, callback=lambda local_variables, _: half.num_timesteps < 80)
    half.save(tmp_path / "half", include_replay=True)
    again = TeacherStudent.load(tmp_path / "half.safetensors", env=make, teacher=swing)
    again.learn(160 - again.num_timesteps)
    found = unlike(tmp_path, whole, again)
    assert [path for path in found if "_space/generator" not in path] == []  # spaces draw nothing, from no seed


def test_a_vector_has_the_groups_that_it_names_or_its_copies_have():
    class Named(Pendulums):
        @property
        def observation_groups(self):
            return {"angle": [0, 1], "speed": [2]}

    class Flat(gym.ObservationWrapper):
        observation_groups = {"way": (2, 3)}  # noqa: RUF012

        def observation(self, observation):
            return observation

    copies = [partial(SyncVectorEnv, [lambda: Flat(point())] * n) for n in (1, 2)]
    for env, name, columns in (
        (lambda num_envs: Named(num_envs), "angle", (0, 1)),
        (lambda num_envs: copies[num_envs - 1](), "way", (2, 3)),
        (lambda num_envs: gym.make_vec("Hopper-v5", num_envs), "qpos", (0, 1, 2, 3, 4)),
    ):
        task = find_vector(env)
        assert view_of("student_observations", task.make(), name).columns == columns
    wider = gym.wrappers.vector.TransformObservation
    grown = gym.spaces.Box(-2, 2, (5,))
    task = find_vector(lambda num_envs: wider(copies[num_envs - 1](), lambda o: o, single_observation_space=grown))
    assert groups_of(task.make()) == {}  # not those of what it is made of
