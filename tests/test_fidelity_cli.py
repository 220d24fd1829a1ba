"""policykd fidelity: the report of a finished run of policykd classify."""

import csv
import json
import shutil

import pytest

pytest.importorskip("accelerate")
pytest.importorskip("sklearn")

from policykd.cli import main


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Two runs of one recipe, of other seeds."""
    folder = tmp_path_factory.mktemp("classify")
    tiny = ["--examples", "100", "--epochs", "2", "--teacher-epochs", "2", "--teacher-widths", "12", "--device", "cpu"]
    for seed in (0, 1):
        main(["classify", "--run-dir", str(folder / str(seed)), "--seed", str(seed), *tiny])
    (folder / "3").mkdir()
    (folder / "3" / "options.json").write_text('{"data": [], "learners": ["mlp", "tree"]}')  # of policykd cooperate
    shutil.copytree(folder / "0", folder / "4", ignore=shutil.ignore_patterns("result.json"))  # killed before its end
    return folder


def test_report_of_a_run(runs, tmp_path, capsys):
    main(["fidelity", str(runs / "0"), "--control", str(runs / "1"), "--out", str(tmp_path)])
    with open(tmp_path / "fidelity.csv", encoding="utf-8") as file:
        rows = {(row["split"], row["who"]): row for row in csv.DictReader(file)}
    assert set(rows) == {(split, who) for split in ("train", "test") for who in ("student", "control", "teacher")}
    result = json.loads((runs / "0" / "result.json").read_text(encoding="utf-8"))["test"]
    student = rows["test", "student"]
    for name in ("accuracy", "agreement", "kl", "ece", "nll"):
        assert float(student[name]) == pytest.approx(result[name], rel=1e-4, abs=1e-6), "the run's own numbers"
    assert rows["test", "control"]["agreement"] != student["agreement"]
    assert float(rows["test", "teacher"]["agreement"]) == 1
    assert (tmp_path / "fidelity.png").exists() and not (runs / "0" / "fidelity.md").exists()
    assert (tmp_path / "fidelity.md").read_text(encoding="utf-8") in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["0", "--control", "0"], "has the same teacher"),
        (["2"], "is not a run of policykd train, classify or distill"),
        (["3"], "is not a run of policykd train, classify or distill, but of another kind"),
        (["4"], "is not finished: resume with policykd classify --resume"),
        (["0", "--student-features", "hidden.9", "--teacher-features", "hidden.0"], "no module 'hidden.9'"),
    ],
)
def test_faults_are_one_line(runs, arguments, message, capsys, tmp_path):
    arguments = [str(runs / word) if len(word) == 1 else word for word in arguments]
    with pytest.raises(SystemExit) as stopped:
        main(["fidelity", *arguments, "--out", str(tmp_path / "out")])
    error = capsys.readouterr().err
    assert stopped.value.code == 2 and message in error and error.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_a_control_of_another_recipe_is_refused(runs, capsys, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    made = json.loads((runs / "1" / "options.json").read_text(encoding="utf-8"))
    made["config"]["temperature"] = 3.0
    (other / "options.json").write_text(json.dumps(made))
    with pytest.raises(SystemExit):
        main(["fidelity", str(runs / "0"), "--control", str(other)])
    assert "other settings" in (error := capsys.readouterr().err) and "temperature was 1.0, now 3.0" in error


def test_a_control_needs_no_baseline(runs, tmp_path):
    control = shutil.copytree(runs / "1", tmp_path / "control")
    made = json.loads((control / "options.json").read_text(encoding="utf-8"))
    (control / "options.json").write_text(json.dumps({**made, "baseline": False}))
    main(["fidelity", str(runs / "0"), "--control", str(control), "--out", str(tmp_path / "out")])
    assert "control" in (tmp_path / "out" / "fidelity.csv").read_text(encoding="utf-8")
