"""A VectorEnv of Gymnasium's, or a batched simulator's, as the environments of all learners."""

import threading
from functools import partial

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv
from test_many_envs import QUIET
from tiny import POINT, unlike
from vectors import Pendulums, pendulums

from policykd import DualStudent, PolicyKDError, TeacherStudent
from policykd.core.networks import state_tensors
from policykd.tasks.batched import find_vector
from policykd.teachers.task import inspect_task

SAME_STEP = AutoresetMode.SAME_STEP
PPO = {"n_steps": 20, "batch_size": 20, "n_epochs": 2, "net_arch": (8,), "n_eval_episodes": 0, "eval_freq": 0}


def point():
    return gym.make(POINT, max_episode_steps=13)


def trained(env, backbone, mode=None, n_envs=3, steps=180, **changes):
    settings = {**(PPO if backbone == "ppo" else QUIET), **({} if mode else {"n_envs": n_envs}), **changes}
    return DualStudent(env, backbone=backbone, seeds=(4,), config=settings).learn(steps)


@pytest.mark.parametrize(("backbone", "mode"), [*(("td3", mode) for mode in AutoresetMode), ("ppo", SAME_STEP)])
def test_a_vector_of_copies_gives_the_numbers_of_as_many_environments(backbone, mode):
    one_by_one = trained(point, backbone)
    together = trained(SyncVectorEnv([point] * 6, autoreset_mode=mode), backbone, mode)
    assert together.n_envs == 3
    ours, theirs = (state_tensors(agent.learner) for agent in (one_by_one, together))
    for name, value in ours.items():
        assert torch.equal(value, theirs[name]), name
    if backbone != "ppo":
        assert torch.equal(one_by_one.replay_buffer.storage, together.replay_buffer.storage)
    assert one_by_one.run.returns() == together.run.returns()
    assert [len(returns) for returns in together.run.returns()] == [6, 6]


def test_copies_in_processes_give_the_same_numbers():
    vector = AsyncVectorEnv([point] * 4, context="fork")
    try:
        together = trained(vector, "td3", "async", steps=120)
        one_by_one = trained(point, "td3", n_envs=2, steps=120)
        assert torch.equal(together.replay_buffer.storage, one_by_one.replay_buffer.storage)
    finally:
        vector.close()


@pytest.mark.parametrize(("mode", "tensors"), [(SAME_STEP, False), (AutoresetMode.DISABLED, True)])
def test_a_transition_leads_to_the_last_observation_of_its_own_episode(mode, tensors):
    make = partial(Pendulums, mode=mode, tensors=tensors)
    agent = DualStudent(make, backbone="sac", config={**QUIET, "n_envs": 4, "buffer_size": 1000}).learn(2 * 4 * 100)
    rows = agent.replay_buffer.storage[:, :400].view(2, 100, 4, -1)
    states, beyond, (_, terminated, truncated) = rows[..., :3], rows[..., 4:7], rows[..., 7:].unbind(-1)
    done = (terminated + truncated)[:, :-1] > 0
    assert (states[:, 1:] == beyond[:, :-1]).all(-1).equal(~done)
    assert terminated.any() and truncated.any() and not (terminated * truncated).any()
    assert torch.equal(terminated.bool(), beyond[..., 2].abs() > 4.0)
    angle = torch.atan2(states[..., 1], states[..., 0])
    torch.testing.assert_close(rows[..., 7], -angle.square() - 0.1 * states[..., 2].square(), rtol=1e-3, atol=1e-3)
    assert sum(map(len, agent.run.returns())) == int((terminated + truncated).sum())
    lengths = [episode["l"] for episodes in agent.run.episodes for episode in episodes]
    assert max(lengths) == 12


@pytest.mark.parametrize("backbone", ["td3", "ppo"])
def test_tensors_give_the_numbers_of_arrays(backbone):
    changes = {"n_envs": 4} | (PPO if backbone == "ppo" else QUIET)
    first, second = (
        DualStudent(partial(Pendulums, tensors=tensors), backbone=backbone, config=changes).learn(400)
        for tensors in (False, True)
    )
    for name, value in state_tensors(first.learner).items():
        torch.testing.assert_close(value, state_tensors(second.learner)[name], msg=name)
    assert isinstance(second.collector.observations, torch.Tensor)


def test_evaluations_and_teachers_play_single_environments_of_the_function(tmp_path):
    config = {**QUIET, "n_envs": 2, "n_eval_episodes": 3}
    agent = DualStudent(pendulums, backbone="td3", config=config, run_dir=tmp_path / "run").learn(80)
    assert agent.env_id == "Pendulums"
    assert agent.evaluations[-1].returns.shape == (2, 3) and agent.evaluations[-1].lengths.max() <= 12
    rows = (tmp_path / "run" / "dpd-td3" / "Pendulums_1" / "monitor.csv").read_text(encoding="utf-8").splitlines()
    assert rows[1] == "r,l,t" and len(rows) >= 4
    students = TeacherStudent(
        partial(Pendulums, tensors=True),
        lambda observation: -np.sign(observation[1:2]),
        config={"n_envs": 5, "round_steps": 50, "round_updates": 5, "n_eval_episodes": 1, "allow_weak_teacher": True},
    ).learn(100)
    assert students.dataset.size == 100 and np.isfinite(students.score_teacher().mean)


@pytest.mark.parametrize("make", [pendulums, partial(Pendulums, tensors=True), lambda num_envs: copies(num_envs)])
def test_a_run_on_a_vector_goes_on_exactly(tmp_path, make):
    def agent():
        return DualStudent(make, backbone="td3", config={**QUIET, "n_envs": 2})

    whole, half = agent().learn(240), agent()
    half.learn(240, callback=lambda local_variables, _: half.num_timesteps < 120)
    half.save(tmp_path / "half", include_replay=True)
    again = DualStudent.load(tmp_path / "half.safetensors", env=make)
    again.learn(240 - again.num_timesteps)
    found = unlike(tmp_path, whole, again)
    assert [path for path in found if "_space/generator" not in path] == []  # spaces draw nothing, from no seed


def copies(num_envs):
    return SyncVectorEnv([point] * num_envs)


def test_processes_cannot_be_saved_and_begin_new_episodes(tmp_path, caplog):
    def make(num_envs):
        return AsyncVectorEnv([point] * num_envs, context="fork")

    first = DualStudent(make, backbone="td3", config=QUIET)
    try:
        first.learn(60).save(tmp_path / "saved", include_replay=True)
        again = DualStudent.load(tmp_path / "saved.safetensors", env=make)
        with caplog.at_level("WARNING"):
            again.learn(20)
        assert "not exact: " in caplog.text and again.num_timesteps == 80
        replay = again.replay_buffer
        seam = 60 // again.peers - 1  # the last step before: no return runs from its episode into the new one
        assert replay.storage[:, seam, -1].tolist() == [1.0] * again.n_learners
    finally:
        for agent in (first, again):
            agent.get_env().close()


def test_rollouts_under_way_begin_anew_with_environments_that_cannot_be_saved(tmp_path):
    class Own(gym.Wrapper):
        def __init__(self, env):
            super().__init__(env)
            self.lock = threading.Lock()

    def make(num_envs):
        return SyncVectorEnv([lambda: Own(point())] * num_envs, autoreset_mode=AutoresetMode.SAME_STEP)

    config = {"n_steps": 40, "batch_size": 20, "n_eval_episodes": 0, "normalize_reward": True}
    arguments = {"method": "independent", "backbone": "ppo", "peers": 1, "config": config}
    DualStudent(make, **arguments).learn(50).save(tmp_path / "saved", include_replay=True)
    again = DualStudent.load(tmp_path / "saved.safetensors", env=make)
    assert again.rollout_buffer.position == 10 and again.learner.discounted_rewards.any()
    again.get_env()
    assert again.rollout_buffer.position == 0 and not again.learner.discounted_rewards.any()


def test_gymnasiums_wrapper_of_tensors_gives_the_same_numbers():
    pytest.importorskip("array_api_compat", reason="Gymnasium converts arrays with array_api_compat")

    def wrapped(num_envs):
        return gym.wrappers.vector.NumpyToTorch(SyncVectorEnv([point] * num_envs))

    tensors, arrays = trained(wrapped, "td3"), trained(point, "td3")
    assert isinstance(tensors.collector.observations, torch.Tensor)
    torch.testing.assert_close(tensors.replay_buffer.storage, arrays.replay_buffer.storage)


def test_gymnasiums_own_make_is_evaluated_on_one_of_its_copies():
    config = {**QUIET, "n_eval_episodes": 1}
    agent = DualStudent(gym.make_vec("Pendulum-v1", 4), backbone="td3", config=config).learn(40)
    assert (agent.env_id, agent.n_envs) == ("Pendulum-v1", 2)
    assert agent.evaluations[-1].lengths.tolist() == [[200], [200]]
    with pytest.raises(PolicyKDError, match="wrapped in NormalizeObservation"):
        DualStudent(gym.wrappers.vector.NormalizeObservation(gym.make_vec("Pendulum-v1", 2)))


def test_gymnasiums_own_vector_class_is_refused_with_a_word_that_make_vec_takes():
    with pytest.raises(PolicyKDError, match=r'NEXT_STEP.*: make it with vectorization_mode="sync"$'):
        DualStudent(gym.make_vec("CartPole-v1", 2), backbone="ppo")
    agent = DualStudent(gym.make_vec("CartPole-v1", 2, vectorization_mode="sync"), backbone="ppo")
    assert (agent.env_id, agent.n_envs) == ("CartPole-v1", 1)


@pytest.mark.parametrize(
    "make",
    [
        lambda num_envs: gym.make_vec("Pendulum-v1", num_envs, vectorization_mode="sync"),
        lambda num_envs: gym.wrappers.vector.ClipReward(gym.make_vec("Pendulum-v1", num_envs), -9, 9),
        lambda num_envs: gym.wrappers.vector.ClipReward(
            SyncVectorEnv([lambda: gym.make("Pendulum-v1")] * num_envs), -9, 9
        ),
    ],
)
def test_a_single_environment_of_a_vector_has_the_name_of_its_task(make):
    task = find_vector(make)
    assert task.env_id == inspect_task(task.make).env_id == "Pendulum-v1"


def test_what_processes_copy_is_played_without_one():
    task = find_vector(lambda num_envs: AsyncVectorEnv([point] * num_envs, context="fork"))
    with task.make() as single:
        assert (task.env_id, type(single.unwrapped).__name__) == (POINT, "PointReach")


def test_vectors_and_functions_are_made_without_mujocos_notes(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    find_vector(lambda num_envs: gym.make_vec("HalfCheetah-v5", num_envs)).make().close()
    assert capfd.readouterr() == ("", "") and not list(tmp_path.iterdir())


class Broken(Pendulums):
    """Says nothing of the last observation."""

    def step(self, actions):
        return (*super().step(actions)[:4], {})


@pytest.mark.parametrize(
    ("env", "message"),
    [
        (lambda: Pendulums(3), "the 3 environments of Pendulums cannot be divided evenly among 2 learners"),
        (lambda: Pendulums(4), "pass a function of num_envs"),
        (lambda: partial(Pendulums, mode=AutoresetMode.NEXT_STEP), "NEXT_STEP, whose step after an end"),
        (lambda: partial(Pendulums, mode=None), r'must set metadata\["autoreset_mode"\]'),
        (lambda: lambda num_envs: Pendulums(1 + num_envs), "must return a gymnasium VectorEnv of 1 environments"),
        (lambda: lambda num_envs: 1 / 0, "cannot be made: division by zero"),
    ],
)
def test_what_cannot_be_learnt_from_is_one_line(env, message):
    with pytest.raises(PolicyKDError, match=message) as error:
        DualStudent(env(), config={"buffer_size": 1000})
    assert "\n" not in str(error.value)


def test_an_instance_alone_trains_without_evaluations_and_a_missing_last_observation_stops_the_run():
    agent = DualStudent(Pendulums(4), backbone="td3", config=QUIET).learn(40)
    assert agent.n_envs == 2 and not agent.evaluations
    with pytest.raises(PolicyKDError, match=r"ended an episode \(SAME_STEP\) without its infos"):
        DualStudent(Broken(4), backbone="td3", config=QUIET).learn(400)
