"""What a program has set in torch for itself: agents leave it alone, work beside it, or say what to take back."""

import random
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from tiny import POINT, TINY

from policykd import DualStudent, PolicyKDError, TeacherStudent
from policykd.memory.logged import LoggedStates

STATES = LoggedStates(np.zeros((8, 4), np.float32), np.zeros((8, 2), np.float32))


def peers(**options):
    return DualStudent(POINT, backbone="sac", config=TINY, **options)


def students(**options):
    config = {"net_arch": (8,), "round_steps": 40, "round_updates": 2, "n_eval_episodes": 1, "teacher_episodes": 2}
    return TeacherStudent(POINT, lambda o: np.clip(10 * o[..., 2:], -1, 1), config=config, **options)


AGENTS = pytest.mark.parametrize("make", [peers, students])


@contextmanager
def default_dtype():
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


@AGENTS
def test_a_run_with_its_best_models_leaves_the_generators_of_the_program_alone(tmp_path, make):
    def drawn():
        return random.random(), np.random.random(), torch.rand(()).item()

    def seed():
        random.seed(1), np.random.seed(1), torch.manual_seed(1)

    seed()
    untouched = drawn()
    seed()
    agent = make(run_dir=tmp_path / "run").learn(80)
    agent.to_sb3()
    assert drawn() == untouched


@AGENTS
@pytest.mark.parametrize(
    ("default", "said"),
    [
        (default_dtype, "torch.float64, but learners compute in float32"),
        (lambda: torch.device("meta"), 'device="meta"'),
    ],
)
def test_other_defaults_of_torch_are_told(make, default, said):
    agent = make()
    with default():
        with pytest.raises(PolicyKDError, match=said):
            make()
        with pytest.raises(PolicyKDError, match=said):
            agent.learn(40)
    assert agent.num_timesteps == 0


@AGENTS
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_an_agent_is_loaded_and_acts_where_nothing_has_a_gradient(tmp_path, make, mode):
    agent, observation = make(), np.ones(4, np.float32)
    agent.save(tmp_path / "agent")
    with mode():
        loaded = type(agent).load(tmp_path / "agent")
        np.testing.assert_array_equal(loaded.predict(observation)[0], agent.predict(observation)[0])


@AGENTS
def test_nothing_learns_in_inference_mode(make):
    agent = make().learn(40)
    learning = [agent.learn, (lambda _: agent.ship()) if make is peers else (lambda _: agent.learn_from(STATES, 2))]
    with torch.inference_mode():
        made = make()
        for learn in learning:
            with pytest.raises(PolicyKDError, match="inference_mode"):
                learn(40)
    with pytest.raises(PolicyKDError, match="trained in torch"):
        made.learn(40)
