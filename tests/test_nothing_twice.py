"""No gradient step asks a network twice for the same answer."""

from collections import Counter

import pytest
from test_cuda_graph import ROLLOUT
from test_teacher_student import COPY, REPLAY, ROLL, expert
from tiny import POINT, TINY

from policykd import DualStudent, PolicyKDError, TeacherStudent
from policykd.core import networks
from policykd.distillation.methods import PEER_METHODS, TEACHER_METHODS

ASK = networks.native.mlp


def asked_twice(agent, monkeypatch, steps=120):
    """How often the steps asked a row of parameters about inputs that the same step had asked it about before."""
    asked, twice, answers = Counter(), [], []

    def ask(rows, inputs, *shape):
        for row, own in zip(rows.detach(), inputs.detach(), strict=True):
            # The place, too: ADVISOR's imitator is another network, though it begins as the student.
            asked[row.data_ptr(), row.numpy().tobytes(), own.numpy().tobytes(), shape] += 1
        return ASK(rows, inputs, *shape)

    step = agent.recipe.step

    def watched(*args, **options):
        asked.clear()
        monkeypatch.setattr(networks.native, "mlp", ask)
        info = step(*args, **options)
        monkeypatch.setattr(networks.native, "mlp", ASK)
        answers.append(len(asked))
        twice.extend(count for count in asked.values() if count > 1)
        return info

    agent.recipe.step = watched
    agent.learn(steps)
    assert any(answers)
    return len(twice)


@pytest.mark.parametrize("method", PEER_METHODS)
@pytest.mark.parametrize("backbone", ["ddpg", "td3", "sac", "ppo"])
def test_peers_compute_nothing_twice(backbone, method, monkeypatch):
    config = ROLLOUT if backbone == "ppo" else TINY
    try:
        agent = DualStudent(POINT, method=method, backbone=backbone, config=config)
    except PolicyKDError as error:  # of rows that say what they need
        pytest.skip(str(error))
    assert asked_twice(agent, monkeypatch) == 0


@pytest.mark.parametrize("method", TEACHER_METHODS)
@pytest.mark.parametrize("backbone", ["ppo", "sac"])
def test_students_compute_nothing_twice(backbone, method, monkeypatch):
    config = COPY if TEACHER_METHODS[method].coupling == "alone" else ROLL if backbone == "ppo" else REPLAY
    try:
        agent = TeacherStudent(POINT, expert, method=method, backbone=backbone, config={**config, "teacher_std": 0.2})
    except PolicyKDError as error:
        pytest.skip(str(error))
    assert asked_twice(agent, monkeypatch) == 0
