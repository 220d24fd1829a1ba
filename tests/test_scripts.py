"""The scripts that users copy: each runs from start to finish, in small."""

import runpy
import sys
from pathlib import Path

import pytest
import torch
from stable_baselines3 import PPO, TD3
from tiny import POINT

from policykd import DualStudent
from policykd.errors import PolicyKDError

SCRIPTS = Path(__file__).parents[1] / "scripts"


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def script(name):
    return runpy.run_path(str(SCRIPTS / f"{name}.py"))["main"]


@pytest.fixture
def run(capsys):
    """The folder of a run of train_peers.py."""
    script("train_peers")(POINT, steps=40, seeds=(3,), out=Path("run"))
    assert "seed 3, peer 1: return -" in capsys.readouterr().out
    return Path("run")


def test_peers_are_trained_evaluated_shown_and_kept(run, capsys):
    assert TD3.load(run / "seed_3.zip")
    assert DualStudent.load(run).num_timesteps == 40
    script("evaluate")(run, episodes=2)
    assert "after 40 steps, 2 episodes from seed 1000000\nseed 3, peer 0: return -" in capsys.readouterr().out
    script("record_video")(run, steps=5)
    assert Path("episode.mp4").exists() or "no video" in capsys.readouterr().out


def typed(monkeypatch, name, *arguments):
    """Run a script as from the command line: its exit status, None where it ends by itself."""
    monkeypatch.setattr(sys, "argv", [name, *map(str, arguments)])
    try:
        runpy.run_path(str(SCRIPTS / f"{name}.py"), run_name="__main__")
    except SystemExit as end:
        return end.code
    return None


def test_the_run_is_named_as_the_scripts_first_lines_do(run, monkeypatch, capsys):
    assert typed(monkeypatch, "evaluate", run, "--episodes", 2) is None
    assert "after 40 steps, 2 episodes" in capsys.readouterr().out
    Path("episode.mp4").touch()
    assert typed(monkeypatch, "record_video", run, "--steps", 5) == 2
    assert capsys.readouterr().err == "policykd: error: video: episode.mp4 exists: choose another --out\n"
    assert Path("episode.mp4").stat().st_size == 0


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("train_peers", ("--env", "Nope-v0")),
        ("compare_sb3", ("--env", "CartPole-v1", "--steps", 40)),
        ("distill_teacher", ("--teacher", "nope.zip", "--env", POINT)),
        ("evaluate", ("nope",)),
        ("record_video", ("nope",)),
        ("train_classifier", ("--data", "nope")),
        ("benchmark", ("--tasks", POINT, "--steps", 40, "--methods", "nope", "--high", 0)),
    ],
)
def test_what_a_script_cannot_do_is_one_line_and_leaves_nothing(name, arguments, monkeypatch, capsys):
    pytest.importorskip({"benchmark": "rliable", "train_classifier": "accelerate"}.get(name, "tyro"))
    assert typed(monkeypatch, name, *arguments) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert not list(Path().iterdir())


def test_students_of_several_sizes_are_distilled(capsys):
    teacher = PPO("MlpPolicy", POINT, device="cpu", policy_kwargs={"net_arch": []})
    with torch.no_grad():  # the proportional controller
        teacher.policy.action_net.weight.copy_(torch.tensor([[0, 0, 10, 0], [0, 0, 0, 10]]))
    teacher.save("teacher.zip")
    main = script("distill_teacher")
    main(Path("teacher.zip"), POINT, sizes=(4, 8), steps=300, seeds=(0, 1), out=Path("students"))
    text = capsys.readouterr().out
    assert "4x4, " in text and "8x8, " in text
    assert PPO.load("students/student_8x8.zip") and Path("students/student_8x8/vecnormalize.pkl").exists()


def test_a_teacher_that_has_nothing_to_teach_leaves_no_folder():
    PPO("MlpPolicy", POINT, device="cpu", seed=0).save("teacher.zip")
    with pytest.raises(PolicyKDError, match="it is too weak to teach"):
        script("distill_teacher")(Path("teacher.zip"), POINT, sizes=(4,), steps=40, seeds=(0,), out=Path("students"))
    assert not Path("students").exists()


def test_a_comparison_with_sb3_measures_both_on_the_same_episodes(capsys):
    script("compare_sb3")(POINT, steps=60, episodes=2)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in lines[-2:]] == ["better peer, as an SB3 model", "SB3's TD3"]


def test_a_benchmark_leaves_a_page(monkeypatch):
    pytest.importorskip("rliable")
    for name in ("RESAMPLES", "CURVE_RESAMPLES"):
        monkeypatch.setattr(f"policykd.benchmark.statistics.{name}", 20)
    main = script("benchmark")
    main((POINT,), steps=60, seeds=2, methods=("single",), high=-5.2)
    assert Path("runs/benchmark/report.html").stat().st_size > 10_000
    spec = Path("runs/benchmark/results/spec.yaml").read_text(encoding="utf-8")
    assert "given by --high" in spec
    with pytest.raises(PolicyKDError, match="was made by another spec"):
        main((POINT,), steps=80, seeds=2, methods=("single",), high=-5.2)
    assert [file.read_text(encoding="utf-8") for file in Path().rglob("spec.yaml")] == [spec]


def test_a_classifier_is_distilled_beside_one_that_learns_from_labels(capsys):
    pytest.importorskip("accelerate")
    script("train_classifier")(epochs=1)
    assert "cross_entropy: test accuracy 0." in (text := capsys.readouterr().out) and "hinton: test accuracy 0." in text


@pytest.mark.parametrize("method", ["nope", "fitnets"])  # fitnets needs modules to compare, which have no option here
def test_a_method_that_cannot_teach_is_told_before_a_teacher_is_trained(method, monkeypatch):
    pytest.importorskip("accelerate")
    monkeypatch.setattr("policykd.Distiller.fit", lambda *arguments, **named: pytest.fail("something was trained"))
    with pytest.raises(PolicyKDError, match=r"method: 'nope' is unknown|features: fitnets compares modules"):
        script("train_classifier")(method=method, epochs=1)


@pytest.mark.parametrize("path", sorted(SCRIPTS.glob("*.py")), ids=lambda path: path.stem)
def test_scripts_stay_short_enough_to_read(path):
    assert 15 <= len(path.read_text(encoding="utf-8").splitlines()) <= 60
