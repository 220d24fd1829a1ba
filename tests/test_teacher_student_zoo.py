"""Students of rl-baselines3-zoo's agents, where the variable POLICYKD_TEACHERS says where these are."""

import os
from pathlib import Path

import pytest

from policykd import TeacherStudent
from policykd.measure.fidelity import fidelity

ZOO = os.environ.get("POLICYKD_TEACHERS")
needs_zoo = pytest.mark.skipif(
    not ZOO or not Path(ZOO).is_dir(), reason="POLICYKD_TEACHERS names no folder of the zoo's agents"
)


@needs_zoo
@pytest.mark.parametrize("folder", ["sac/HalfCheetah-v3_1", "ppo/HalfCheetah-v3_1"])
def test_a_student_comes_nearer_to_its_teacher(folder):
    config = {"round_steps": 400, "round_updates": 100, "eval_freq": 0, "n_eval_episodes": 1, "teacher_episodes": 2}
    agent = TeacherStudent("HalfCheetah-v5", Path(ZOO) / folder, config=config)
    before = fidelity(agent, 0, steps=300)["teacher_states"].distance
    agent.learn(2400)
    assert fidelity(agent, 0, steps=300)["teacher_states"].distance < before / 2


@needs_zoo
@pytest.mark.nightly
@pytest.mark.parametrize(
    ("env", "folder", "least"),
    [
        ("HalfCheetah-v5", "sac/HalfCheetah-v3_1", 0.95),
        ("HalfCheetah-v5", "ppo/HalfCheetah-v3_1", 0.95),
        ("Hopper-v5", "tqc/Hopper-v3_1", 0.90),
    ],
)
def test_64x64_students_of_the_zoo_reach_their_teacher(env, folder, least):
    agent = TeacherStudent(env, Path(ZOO) / folder, seeds=(0, 1, 2), config={"eval_freq": 0}).learn(100_000)
    returns = agent.evaluate(20, seed=1_000_000).returns
    assert (agent.score_teacher().ratio(returns).mean(1) >= least).all()
