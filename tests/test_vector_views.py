"""Students that see a part of a vector's observations, or the latest few parts, beside those of single environments."""

from functools import partial

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from tiny import POINT, unlike
from vectors import Pendulums

from policykd import DualStudent, PolicyKDError, TeacherStudent
from policykd.core.networks import state_tensors
from policykd.tasks.batched import BatchedEnvs, find_vector
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


class Dicts(Pendulums):
    """Pendulums as IsaacLab's tasks give them: a group for each side, and one in a dict of its own."""

    def __init__(self, num_envs, **options):
        super().__init__(num_envs, **options)
        box = gym.spaces.Box(-np.inf, np.inf, (2, 1), np.float32)
        inner = gym.spaces.Dict({"all": self.single_observation_space, "late": gym.spaces.Discrete(2, start=1)})
        self.single_observation_space = gym.spaces.Dict({"policy": box, "critic": inner})

    def _seen(self):
        whole = super()._seen()
        return {"policy": whole[:, :2, None], "critic": {"all": whole, "late": 1 + (self.steps > 5)}}

    def _out(self, array):
        return {key: self._out(part) for key, part in array.items()} if isinstance(array, dict) else super()._out(array)


@pytest.mark.parametrize("mode", [AutoresetMode.SAME_STEP, AutoresetMode.DISABLED])
@pytest.mark.parametrize("tensors", [False, True])
def test_a_simulator_of_dicts_is_laid_out_where_it_is(mode, tensors, tmp_path):
    make = partial(Dicts, mode=mode, tensors=tensors)
    sees = {"n_envs": 4, "student_observations": "policy", "teacher_observations": "critic/all", "history": 2}
    student = students(make, swing, **sees).learn(160)
    plain = students(partial(Pendulums, mode=mode), swing, **{**sees, **PARTS}).learn(160)
    torch.testing.assert_close(student.dataset.storage, plain.dataset.storage)
    whole = student.envs.full_observation
    assert isinstance(whole, torch.Tensor) == tensors and whole.shape == (4, 7)
    late = student.envs.vector.unwrapped.steps > 5  # critic/all, critic/late, policy: the keys are sorted
    np.testing.assert_array_equal(np.asarray(whole)[:, 3:5], np.stack((~late, late), 1))
    seen = Dicts(3, tensors=tensors).reset(seed=0)[0]
    stacks = np.tile(np.asarray(seen["policy"])[..., 0], 2)
    np.testing.assert_array_equal(student.predict(seen)[0], student.predict(stacks)[0])
    student.save(tmp_path / "half", include_replay=True)
    again = TeacherStudent.load(tmp_path / "half.safetensors", make, teacher=swing).learn(40)
    assert torch.equal(again.learner.actor, student.learn(40).learner.actor)


def test_dicts_of_foreign_arrays_are_told_the_wrapper():
    class Foreign(Dicts):
        def _out(self, array):
            return super()._out(array) if isinstance(array, dict) else memoryview(array)

    with pytest.raises(PolicyKDError, match="gives memoryview: wrap it in gymnasium"):
        BatchedEnvs(find_vector(Foreign(2)).vector.make(2), 1, None).start([0])


PARTS = {"student_observations": (0, 1), "teacher_observations": None}


class Two(gym.Wrapper):
    """A task whose observation is a dict."""

    def __init__(self):
        super().__init__(point())
        box = gym.spaces.Box(-np.inf, np.inf, (2,), np.float32)
        self.observation_space = gym.spaces.Dict({"b": box, "a": box, "c": gym.spaces.Discrete(3)})

    def reset(self, **options):
        return self._seen(super().reset(**options)[0]), {}

    def step(self, action):
        observation, *rest = super().step(action)
        return self._seen(observation), *rest

    def _seen(self, observation):
        return {"a": observation[:2], "b": observation[2:4], "c": int(observation[0] > 0)}


@pytest.mark.parametrize("mode", [AutoresetMode.SAME_STEP, AutoresetMode.NEXT_STEP])
def test_copies_of_a_task_of_dicts_give_the_numbers_of_single_ones(mode):
    sees = {"student_observations": ("c", "b"), "teacher_observations": ("a", "b")}
    alone = students(Two, towards, n_envs=3, **sees).learn(120)
    together = students(SyncVectorEnv([Two] * 3, autoreset_mode=mode), towards, **sees).learn(120)
    assert torch.equal(alone.dataset.storage, together.dataset.storage)
    assert groups_of(together.envs.vector) == groups_of(alone.full_factory())
    assert DualStudent(lambda num_envs: SyncVectorEnv([Two] * num_envs), backbone="td3", config=FEW).learn(60)


FEW = {"net_arch": (8,), "buffer_size": 100, "batch_size": 8, "learning_starts": 20, "n_eval_episodes": 0}


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
