"""What is kept of a task handed in as a vector, recounted step by step; and vectors that break the interface."""

from functools import partial

import gymnasium as gym
import numpy as np
import pytest
import torch
from counting import Counting, Countings, recount
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv
from test_many_envs import QUIET

from policykd import DualStudent, PolicyKDError
from policykd.tasks.batched import find_vector

SAME_STEP, DISABLED, NEXT_STEP = AutoresetMode.SAME_STEP, AutoresetMode.DISABLED, AutoresetMode.NEXT_STEP
STEPS = 30
ROLLOUT = {"n_steps": STEPS, "batch_size": 10, "n_epochs": 1, "net_arch": (8,), "n_eval_episodes": 0, "gamma": 0.0}


def trained(env, backbone="td3", n_envs=2, peers=2):
    config = ROLLOUT if backbone == "ppo" else {**QUIET, "buffer_size": 1000}
    agent = DualStudent(env, backbone=backbone, peers=peers, config={**config, "n_envs": n_envs}, device="cpu")
    return agent.learn(STEPS * n_envs * peers)


def tensors(observations, rewards, terminated, truncated, infos):
    """A differentiable simulator: what it returns has a history."""
    told = [torch.from_numpy(np.array(part)) for part in (observations, rewards, terminated, truncated)]
    told[:2] = [part.requires_grad_() for part in told[:2]]
    return *told, infos


class Tensors(Countings):
    def reset(self, **options):
        return torch.from_numpy(super().reset(**options)[0]).requires_grad_(), {}


def final(change):
    def told(*step):
        return *step[:4], {name: change(last) for name, last in step[4].items()}

    return told


def objects(last):
    """As Gymnasium's own vectors hold them."""
    each = np.full(len(last), None, object)
    for e, row in enumerate(last):
        each[e] = row
    return each


def copies(mode, num_envs):
    return SyncVectorEnv([Counting] * num_envs, autoreset_mode=mode)


MAKERS = {
    "single": Counting,
    **{f"copies, {mode.name}": partial(copies, mode) for mode in AutoresetMode},
    "simulator, DISABLED": lambda num_envs: Countings(num_envs, DISABLED),
    "final_obs as objects": lambda num_envs: Countings(num_envs, told=final(objects)),
    "final_obs as a list of tensors": lambda num_envs: Countings(num_envs, told=final(lambda o: list(torch.tensor(o)))),
    "tensors, final_obs as objects": lambda num_envs: Tensors(
        num_envs, told=lambda *step: tensors(*final(objects)(*step))
    ),
    "differentiable tensors": lambda num_envs: Tensors(num_envs, told=tensors),
    "differentiable tensors, DISABLED": lambda num_envs: Tensors(num_envs, DISABLED, tensors),
    "flags and rewards in lists": lambda num_envs: Countings(
        num_envs, told=lambda o, r, *flags: (o, list(r), *map(list, flags[:2]), flags[2])
    ),
}
STACKED = ("copies", "single")
"""Which tell ``is_success``."""


@pytest.mark.parametrize("make", MAKERS)
def test_a_replay_holds_what_happened_and_nothing_else(make):
    agent = trained(MAKERS[make])
    rows = agent.replay_buffer.storage[:, : 2 * STEPS].view(2, STEPS, 2, 11)
    for k, kept in enumerate(rows.numpy()):
        wanted, episodes = recount(kept[0, :, 0], STEPS)
        np.testing.assert_array_equal(np.delete(kept, (3, 4), axis=-1), wanted)  # without the actions
        told = [{name: value for name, value in e.items() if name != "t"} for e in agent.run.episodes[k]]
        successes = make.startswith(STACKED)
        assert told == [e if successes else {"r": e["r"], "l": e["l"]} for e in episodes]


@pytest.mark.parametrize("make", MAKERS)
def test_a_rollout_holds_what_happened_and_nothing_else(make):
    agent = trained(MAKERS[make], "ppo")
    rollout = agent.rollout_buffer
    for k, kept in enumerate(rollout.observations.numpy()):
        wanted, episodes = recount(kept[0, :, 0], STEPS)
        np.testing.assert_array_equal(kept, wanted[..., :3])
        np.testing.assert_array_equal(rollout.rewards[k], wanted[..., 6])  # gamma is 0: no value beyond
        np.testing.assert_array_equal(rollout.dones[k], wanted[..., 7:].sum(-1))
        assert agent.run.returns()[k] == [e["r"] for e in episodes]


def test_copies_in_processes_that_share_no_memory_are_refused_where_they_end_an_episode_twice():
    def make(num_envs, **options):
        return AsyncVectorEnv([Counting] * num_envs, context="fork", shared_memory=False, **options)

    with pytest.raises(
        PolicyKDError, match=r"not a transition: make it with shared_memory=True, or AutoresetMode\.SAME"
    ):
        find_vector(make)
    agent = trained(partial(make, autoreset_mode=SAME_STEP), n_envs=1)
    agent.get_env().close()
    for kept in agent.replay_buffer.storage[:, :STEPS].numpy():
        np.testing.assert_array_equal(np.delete(kept, (3, 4), axis=-1), recount(kept[:1, 0], STEPS)[0][:, 0])


def part(number, change):
    def told(*step):
        return *step[:number], change(step[number]), *step[number + 1 :]

    return told


MUST = r"step must return \(observations, rewards, terminations, truncations, infos\), not "
BROKEN = {
    "four values": (lambda *step: step[:4], f"{MUST}a tuple of 4"),
    "nothing": (lambda *step: None, f"{MUST}None"),
    "rewards in a column": (part(1, lambda r: r[:, None]), r"rewards of shape \(4, 1\), not \(4,\)"),
    "no rewards": (part(1, lambda r: None), r"rewards of shape \(\), not \(4,\)"),
    "words": (part(1, lambda r: ["good"] * 4), "rewards of <U4, not numbers"),
    "flags in a column": (part(2, lambda flags: flags[:, None]), r"flags of shape \(4, 1\), not \(4,\)"),
    "one flag": (part(3, lambda flags: True), r"flags of shape \(\), not \(4,\)"),
    "ragged": (part(0, lambda o: [[1.0], *o[1:]]), r"observations of shape \(0,\), not \(4, 3\)"),
    "infos in a list": (part(4, lambda infos: [{}] * 4), "must return a dict as infos, not a list of 4"),
    "no infos": (part(4, lambda infos: None), r"without its infos\['final_obs'\]"),
    "no last ones": (final(lambda last: None), r"infos\['final_obs'\] of shape \(\), not \(3,\)"),
    "part of the last ones": (final(lambda last: last[:1]), r"infos\['final_obs'\] of shape \(1, 3\), not \(4, 3\)"),
    "an empty array": (final(lambda last: np.array(None)), r"infos\['final_obs'\] of shape \(\), not \(3,\)"),
}


@pytest.mark.parametrize("broken", BROKEN)
def test_a_vector_that_breaks_the_interface_is_one_line(broken):
    told, message = BROKEN[broken]
    with pytest.raises(PolicyKDError, match=f"environment: Countings.*{message} at step [0-9]+ of learner") as error:
        trained(lambda num_envs: Countings(num_envs, told=told if num_envs > 1 else lambda *step: step))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("given", "message"), [(0, "an array of shape"), ((0, {}, {}), "a tuple of 3")])
def test_a_reset_that_breaks_the_interface_is_one_line(given, message):
    class Broken(Countings):
        def reset(self, **options):
            return super().reset(**options)[0] if given == 0 else given

    match = rf"Broken: reset must return \(observations, infos\), not {message}"
    with pytest.raises(PolicyKDError, match=match):
        trained(lambda num_envs: Broken(num_envs))
    with pytest.raises(PolicyKDError, match=match):
        trained(Broken(4))


def test_infos_may_be_none_where_observations_are_dicts():
    class Dicts(Countings):
        def __init__(self, num_envs):
            super().__init__(num_envs, DISABLED, part(4, lambda infos: None))
            self.single_observation_space = gym.spaces.Dict({"all": Counting.observation_space})

        def seen(self):
            return {"all": super().seen()}

    assert trained(Dicts).run.n_episodes > 0
