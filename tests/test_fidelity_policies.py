"""The report of fidelity for policies: the classifiers' words, table and picture."""

import csv
from dataclasses import fields

import numpy as np
import pytest
import torch
from helpers import make_learner
from test_teacher_student import COPY, expert
from tiny import POINT, TINY

from policykd import DualStudent, TeacherStudent
from policykd.classification.measures.fidelity import MEASURES
from policykd.cli import main
from policykd.core.errors import PolicyKDError
from policykd.distillation.peer_step import action_distance
from policykd.measure import peers
from policykd.measure.fidelity import Fidelity, fidelity, report


def opposite(observation):
    return -expert(observation)


def read(folder):
    with open(folder / "fidelity.csv", encoding="utf-8") as file:
        return {(row["split"], row["who"]): row for row in csv.DictReader(file)}


def test_both_modes_speak_one_language():
    assert {field.name for field in fields(Fidelity)} == {"agreement", "kl", "distance"} <= set(MEASURES)


def test_report_with_a_control(tmp_path):
    config = {**COPY, "round_updates": 100, "distill_learning_rate": 3e-3}
    student, control = (
        TeacherStudent(POINT, teacher, config={**config, "allow_weak_teacher": True}).learn(400)
        for teacher in (expert, opposite)
    )
    rows = report(student, 0, control=control, steps=200, tolerance=0.2, out=tmp_path)
    found = {(row.split, row.who): row.measures for row in rows}
    assert found["student_states", "student"]["agreement"] > found["student_states", "control"]["agreement"] + 0.3
    assert found["teacher_states", "student"]["distance"] < found["teacher_states", "control"]["distance"] / 2
    measured = fidelity(student, 0, steps=200, tolerance=0.2)
    assert all(found[split, "student"] == pytest.approx(vars(m), nan_ok=True) for split, m in measured.items())
    written = read(tmp_path)
    assert written.keys() == found.keys()
    for key, measures in found.items():
        shown = {name: float(written[key][name]) for name in measures}
        assert shown == pytest.approx(measures, rel=1e-5, nan_ok=True)
    assert all(np.isnan(measures["kl"]) for measures in found.values())  # a function has no standard deviation
    assert (tmp_path / "fidelity.png").stat().st_size > 10_000 and (tmp_path / "fidelity.md").exists()


def test_a_control_of_another_task_is_refused():
    student = TeacherStudent(POINT, expert, config=COPY)
    other = TeacherStudent("Pendulum-v1", None, config=COPY)
    with pytest.raises(
        PolicyKDError, match="the control is for Pendulum-v1, but the student for PolicyKD/PointReach-v0"
    ):
        report(student, 0, control=other)


def test_a_control_of_another_recipe_is_refused():
    """SAC's Gaussians are before tanh: a KL from the teacher's in PPO's units would be no number."""
    student = TeacherStudent(POINT, expert, config=COPY)
    for backbone, config, said in (
        ("sac", {}, "is for sac, but the student for ppo"),
        ("ppo", {"history": 2}, "has memory"),
    ):
        small = {"n_eval_episodes": 0}
        with pytest.raises(PolicyKDError, match=f"the control {said}"):
            report(student, 0, control=TeacherStudent(POINT, None, backbone=backbone, config={**small, **config}))


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Runs of ``policykd distill``: two teachers, a student of each; and a run of peers."""
    folder = tmp_path_factory.mktemp("distill")
    words = [
        w for name, value in COPY.items() if name != "net_arch" for w in (f"--{name.replace('_', '-')}", f"{value}")
    ]
    for number, teacher in enumerate((expert, opposite)):
        config = {**COPY, "round_updates": 100, "allow_weak_teacher": True}
        TeacherStudent(POINT, teacher, config=config).learn(200).save(folder / f"teacher{number}")
        common = ["--teacher", str(folder / f"teacher{number}.safetensors"), "--env", POINT, "--student", "4x4"]
        more = ["--allow-weak-teacher", "--total-timesteps", "80", "--run-dir", str(folder / str(number))]
        main(["distill", "--final-episodes", "3", *common, *words, *more])
    DualStudent(POINT, config=TINY).save(folder / "peers")
    return folder


def test_report_of_a_run(runs, tmp_path, capsys, caplog):
    asked = [str(runs / "0"), "--control", str(runs / "1"), "--steps", "50", "--out", str(tmp_path)]
    main(["fidelity", *asked])
    assert set(read(tmp_path)) == {
        (split, who) for split in ("student_states", "teacher_states") for who in ("student", "control")
    }
    assert all(float(row["kl"]) > 0 for row in read(tmp_path).values())  # the teachers here are Gaussian
    assert (tmp_path / "fidelity.md").read_text(encoding="utf-8") in capsys.readouterr().out
    (runs / "teacher0.safetensors").rename(runs / "moved.safetensors")
    with pytest.raises(SystemExit):
        main(["fidelity", str(runs / "0"), "--out", str(tmp_path / "out")])
    assert "teacher0.safetensors, was not found: name it with --teacher" in capsys.readouterr().err
    before = (tmp_path / "fidelity.csv").read_bytes()
    caplog.clear()
    main(["fidelity", *asked, "--teacher", str(runs / "moved.safetensors")])
    assert not caplog.text
    assert (tmp_path / "fidelity.csv").read_bytes() == before
    main(["fidelity", *asked[:1], *asked[3:], "--teacher", str(runs / "teacher1.safetensors")])
    assert "the teacher's action differs at 100 % of the states that the run learnt from" in caplog.text
    (runs / "moved.safetensors").rename(runs / "teacher0.safetensors")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["0", "--control", "0"], "has the same teacher"),
        (["0", "--control", "teacher1.safetensors"], "net_arch was [4, 4], now "),
        (["peers.safetensors", "--teacher", "0"], "is a run of peers, which have no teacher"),
        (["0", "--control", "peers.safetensors"], "is a run of peers, which have no teacher"),
        (["peers.safetensors", "--control", "0"], "is not a run of independent peers"),
        (["0", "--student-features", "a", "--teacher-features", "b"], "are for runs of policykd classify"),
        (["0", "--steps", "-5"], "steps=-5 must be positive"),
    ],
)
def test_faults_are_one_line(runs, arguments, message, capsys, tmp_path):
    arguments = [str(runs / word) if (runs / word).exists() else word for word in arguments]
    with pytest.raises(SystemExit) as stopped:
        main(["fidelity", *arguments, "--out", str(tmp_path / "out")])
    error = capsys.readouterr().err
    assert stopped.value.code == 2 and message in error and error.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_peers_are_compared_at_own_states_and_at_each_others(monkeypatch):
    agent = DualStudent(POINT, config=TINY, seeds=(0, 3))
    by_learner = {k: np.full((7, 4), k / 10, np.float32) for k in range(4)}
    order = iter(range(4))
    monkeypatch.setattr(peers, "visited", lambda *arguments: by_learner[next(order)])
    found = peers.fidelity(agent, tolerance=0.05)
    for name, at in (("own_states_0", 0), ("peer_states_0", 1), ("own_states_1", 1), ("peer_states_1", 0)):
        gaps = []
        for k, peer in ((0, 1), (2, 3)):
            state = torch.from_numpy(by_learner[k + at])
            actions = agent.learner.policy(agent.learner.actor, state.expand(4, -1, -1))
            gaps.append((actions[k] - actions[peer]).detach())
        distance = float(np.mean([gap.norm(dim=-1).mean() for gap in gaps]))
        agreement = float(np.mean([(gap.abs() <= 0.05).all(-1).float().mean() for gap in gaps]))
        assert found[name].distance == pytest.approx(distance, rel=1e-5) and found[name].agreement == agreement
        assert np.isnan(found[name].kl)
    assert found["own_states_0"].distance != found["peer_states_0"].distance
    with pytest.raises(PolicyKDError, match="the control has groups of 3, the run has 2"):
        peers.report(agent, control=DualStudent(POINT, config=TINY, method="independent", peers=3))
    with pytest.raises(PolicyKDError, match="have no peers"):
        peers.fidelity(DualStudent(POINT, config=TINY, method="independent", peers=1))


def test_the_distance_of_peers_is_that_of_what_the_task_executes():
    learner = make_learner("ppo", 2, 1, 1, net_arch=(), normalize_observation=False)
    learner.actor[:, :2] = torch.tensor([[0.0, 3.0], [0.0, 0.25]])  # means 3, which is clipped to 1, and 1/4
    states, peer = torch.zeros(2, 5, 1, dtype=torch.float64), torch.tensor([1, 0])
    assert action_distance(learner, states, peer, peer).tolist() == [0.75, 0.75]


def test_did_peers_become_one_policy(tmp_path, capsys):
    quick = {"net_arch": (8, 8), "batch_size": 16, "buffer_size": 500, "learning_starts": 20, "log_freq": 100}
    quick |= {"n_eval_episodes": 1, "distill_learning_rate": 3e-3}
    for method in ("mutual", "independent"):
        DualStudent(POINT, method=method, backbone="sac", config=quick, run_dir=tmp_path / method).learn(500)
    control = ["--control", str(tmp_path / "independent")]
    main(["fidelity", str(tmp_path / "mutual"), *control, "--steps", "60", "--out", str(tmp_path / "out")])
    rows = read(tmp_path / "out")
    splits = [f"{states}_{learner}" for learner in (0, 1) for states in ("own_states", "peer_states")]
    assert list(rows) == [(split, who) for split in splits for who in ("peers", "control")]
    for split in splits:
        assert float(rows[split, "peers"]["distance"]) < 0.5 * float(rows[split, "control"]["distance"])
    assert (tmp_path / "out" / "fidelity_over_training.png").stat().st_size > 10_000
    assert "over training" in capsys.readouterr().out


@pytest.mark.parametrize("backbone", ["td3", "ppo"])
def test_logs_say_how_far_peers_act_apart(backbone, tmp_path):
    quick = {"net_arch": (8,), "n_eval_episodes": 0, "log_freq": 64, "batch_size": 16}
    quick |= {"n_steps": 32, "n_epochs": 1} if backbone == "ppo" else {"learning_starts": 4, "buffer_size": 100}
    agent = DualStudent(POINT, method="independent", backbone=backbone, config=quick, run_dir=tmp_path / "run").learn(
        64
    )
    with open(tmp_path / "run" / "progress.csv", encoding="utf-8") as file:
        logged = [float(row[peers.APART]) for row in csv.DictReader(file) if row.get(peers.APART)]
    off_policy = backbone == "td3"
    states = agent.replay_buffer.observations if off_policy else agent.rollout_buffer.observations.flatten(1, 2)
    actions = agent.learner.policy(agent.learner.actor, states).clamp(-1, 1)
    others = agent.learner.policy(agent.learner.actor, states[[1, 0]])[[1, 0]].clamp(-1, 1)
    assert logged[-1] == pytest.approx(float((actions - others).norm(dim=-1).mean()), rel=1e-4)
