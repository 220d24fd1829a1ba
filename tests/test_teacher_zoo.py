"""Every agent of rl-baselines3-zoo for vectors and bounded actions is read, or refused with the cause."""

import os
from pathlib import Path

import numpy as np
import pandas
import pytest
import torch
from test_teacher_task import pendulum_agent

from experiments.teachers import zoo
from policykd import PolicyKDError, Teacher

ZOO = os.environ.get("POLICYKD_ZOO")
AGENTS = zoo.folders(Path(ZOO)) if ZOO else []
TABLE = Path(__file__).parents[1] / "results" / "teachers" / "zoo.csv"


@pytest.mark.skipif(not AGENTS, reason="POLICYKD_ZOO names no folder of the zoo's agents")
@pytest.mark.parametrize("folder", AGENTS or [None], ids=[f"{f.parent.name}/{f.name}" for f in AGENTS] or ["none"])
def test_an_agent_of_the_zoo_is_read_or_refused_with_the_cause(folder):
    row = zoo.examine(folder, episodes=0)
    if row["outcome"] == "refused":
        assert row["words"] and "\n" not in row["words"]
        return
    teacher = Teacher.load(folder)
    size = teacher.policy.observation_size
    assert torch.isfinite(teacher.actions(torch.from_numpy(np.zeros((2, size), np.float32)))).all()


def test_a_row_tells_what_was_found(tmp_path):
    folder, _ = pendulum_agent(tmp_path / "sac", [("env_wrapper", "null")], wrap=lambda env: env)
    other, _ = pendulum_agent(tmp_path / "tqc", [("env_wrapper", "my_package.Own")], wrap=lambda env: env)
    assert zoo.folders(tmp_path) == [folder, other]
    zoo.run(zoo.Options(tmp_path, tmp_path / "out", episodes=2))
    table = pandas.read_csv(tmp_path / "out" / "zoo.csv")
    assert list(table.agent) == ["sac/Pendulum-v1_1", "tqc/Pendulum-v1_1"]
    assert list(table.outcome) == ["read", "refused"]
    assert table.algorithm[0] == "SAC" and table.episodes[0] == 2
    assert table["return_min"][0] <= table["return"][0] < 0
    assert "was trained in Own()" in table.words[1] and str(tmp_path) not in table.words[1]
    with pytest.raises(PolicyKDError, match="holds no folders like"):
        zoo.run(zoo.Options(tmp_path / "out", tmp_path / "out"))


def test_the_committed_table_is_of_agents_that_play_as_they_were_recorded():
    table = pandas.read_csv(TABLE)
    assert set(zoo.COLUMNS) == set(table.columns)
    read = table[table.outcome == "read"]
    assert len(read) >= 4 and (read["return"] > read.random_return).all()
    gained, once = read["return"] - read.random_return, read.recorded_return - read.random_return
    assert (gained > 0.8 * once).all()
