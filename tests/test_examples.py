"""The examples run, in small."""

import runpy
import sys
from pathlib import Path

import pytest

from policykd.tasks.spaces import find_task

EXAMPLES = Path(__file__).parents[1] / "examples"


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def example(name):
    return runpy.run_path(str(EXAMPLES / f"{name}.py"))


def test_own_env_is_learnt_and_known_by_its_id(monkeypatch, capsys):
    monkeypatch.syspath_prepend(str(EXAMPLES))
    task = find_task("own_env:Balance-v0")
    sys.modules["own_env"].main(steps=40)
    assert "40 steps: returns of the two peers [" in capsys.readouterr().out
    env = task.make()
    observation, _ = env.reset(seed=0)
    assert observation in env.observation_space


def test_own_teacher_is_better_than_random_and_has_students(capsys):
    students = example("own_teacher")["main"](steps=400)
    assert not list(Path().iterdir())  # nothing is kept, or written over, unasked
    score = students.score_teacher()
    assert score.mean > -400 and score.random_mean < -800
    assert "students, 20 episodes each: [" in capsys.readouterr().out


def test_good_episodes_of_a_controller_and_experts_of_a_task_each_have_students(capsys):
    copied, taught = example("experts")["main"](episodes=9, gradient_steps=20, steps=300)
    assert copied.num_timesteps == 0 and taught.num_timesteps == 300
    said = capsys.readouterr().out
    assert "6 episodes kept of 9" in said and "student of both experts: -" in said


def test_students_learn_from_a_log_beside_one_of_the_users_own(capsys):
    Path("log.npz").write_bytes(b"own")
    students = example("offline")["main"](teacher_steps=256, episodes=2, gradient_steps=20)
    assert students.num_timesteps == 0
    assert "what was done is copied: returns [" in capsys.readouterr().out
    assert Path("log.npz").read_bytes() == b"own"


def test_a_batched_simulator_trains_and_is_evaluated(capsys):
    agent = example("batched_env")["main"](num_envs=4, steps=1_200)
    assert agent.num_timesteps == 1_200 and agent.collector.observations.shape == (8, 2)
    assert "1,200 steps: returns of the two peers [" in capsys.readouterr().out


def test_a_student_is_fine_tuned(capsys):
    students = example("fine_tune")["main"](steps=200)
    assert students.fine_tuned_steps == 400
    assert "after fine-tuning, from the same initial states: [" in capsys.readouterr().out


def test_a_privileged_teacher_has_students_of_another_view(capsys):
    students = example("privileged_teacher")["main"](steps=600)
    assert students.view.columns is not None
    assert "students of 4 numbers: [" in capsys.readouterr().out


def test_a_remembering_student_is_compared(capsys):
    assert set(example("remembering_student")["main"](steps=500)) == {"no memory", "history of 4"}
    assert "history of 4: -" in capsys.readouterr().out


def test_optuna_tunes(capsys):
    pytest.importorskip("optuna")
    study = example("tune_with_optuna")["main"]("PolicyKD/PointReach-v0", trials=2, steps=60)
    assert len(study.trials) == 2 and "best of 2 trials" in capsys.readouterr().out


def test_wandb_is_told(monkeypatch):
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    example("log_to_wandb")["main"]("PolicyKD/PointReach-v0", steps=60)
    assert list(Path("wandb").glob("offline-run-*/run-*.wandb"))
