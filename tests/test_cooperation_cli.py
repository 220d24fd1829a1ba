"""policykd cooperate: CSV files in, tables, picture and what each learner received out."""

import json

import numpy as np
import pandas as pd
import pytest

pytest.importorskip("sklearn")
pytest.importorskip("joblib")

from cooperating import COLOURS, clouds

from policykd.cli import main
from policykd.cli.cooperate_run import _encode, _read_csv, _value_as_text
from policykd.cooperation.cooperative import CooperativeDistillation
from policykd.core.errors import PolicyKDError


@pytest.fixture
def files(tmp_path, monkeypatch):
    """Files of two owners, with a column of words, and one to measure on."""
    monkeypatch.chdir(tmp_path)
    table, labels = clouds(120)
    colour = table[COLOURS].to_numpy().argmax(1)
    table = table.drop(columns=COLOURS).assign(colour=np.array(["blue", "green", "red"])[colour], kind=labels)
    table[:50].query("kind != 'a'").drop(columns="x3").to_csv("one.csv", index=False)
    table[50:90].query("kind != 'c'").drop(columns="x2").to_csv("two.csv", index=False)
    table[90:].to_csv("held.csv", index=False)
    return tmp_path


OWN = ["--data", "one.csv", "two.csv", "--label", "kind", "--learners", "logistic", "tree"]


def test_a_run(files, capsys):
    main(["cooperate", *OWN, "--validation", "held.csv", "--run-dir", "run", "--rounds", "2", "--alpha", "0.7"])
    said = capsys.readouterr().out
    accuracy = pd.read_csv("run/accuracy.csv")
    lessons = pd.read_csv("run/lessons.csv")
    assert list(accuracy["round"].unique()) == [0, 1, 2] and len(lessons) == 4
    last = accuracy[accuracy["round"] == 2].set_index("learner")["validation"]
    assert last.min() > 0.75 and f"{last['tree']:.4f}" in said.replace("\n", " ")
    received = pd.read_csv("run/received/tree.csv")
    assert {"x3", "colour=red", "label", "teacher", "round"} <= set(received) and "x2" not in received
    assert (received[COLOURS].sum(axis=1) == 1).all() and set(received["teacher"]) == {"logistic"}
    assert (files / "run" / "teaching.png").read_bytes().startswith(b"\x89PNG")
    options = json.loads((files / "run" / "options.json").read_text(encoding="utf-8"))
    assert options["search"]["alpha"] == 0.7 and options["rounds"] == 2
    assert "policykd" in json.loads((files / "run" / "versions.json").read_text(encoding="utf-8"))["packages"]


def test_an_interrupted_run_says_how_to_go_on_and_does(files, capsys, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(CooperativeDistillation, "fit", interrupted)
        with pytest.raises(SystemExit) as ended:
            main(["cooperate", *OWN, "--run-dir", "run"])
    assert ended.value.code == 130
    assert "interrupted: nothing is saved before the end; --resume starts over" in capsys.readouterr().out
    main(["cooperate", *OWN, "--run-dir", "run", "--resume"])
    assert (files / "run" / "teaching.png").exists()


def interrupted(*arguments):
    raise KeyboardInterrupt


def test_yes_and_no_stay_so(files):
    for name in ("one.csv", "two.csv", "held.csv"):
        table = pd.read_csv(name)
        table.assign(smoker=np.random.default_rng(0).random(len(table)) < 0.5).to_csv(name, index=False)
    main(["cooperate", *OWN, "--validation", "held.csv", "--run-dir", "run"])
    for learner in ("logistic", "tree"):
        assert pd.read_csv(f"run/received/{learner}.csv")["smoker"].isin((0, 1)).all()


def test_values_are_the_same_in_every_file_however_they_are_written(tmp_path):
    (tmp_path / "one.csv").write_text("x, grade ,label\n1,1,red \n2,x,2\n3, 2.50,2.0\n")
    (tmp_path / "two.csv").write_text("x,grade,label\n1,1.0,1\n2,2.5,2\n")
    tables = [_read_csv(tmp_path / name, "label") for name in ("one.csv", "two.csv")]
    (one,), (two,), groups = _encode(tables[:1], tables[1:], "label")
    assert groups == [["grade=1", "grade=2.5", "grade=x"]]
    assert one["label"].tolist() == ["red", "2", "2"] and two["label"].tolist() == ["1", "2"]
    assert two[groups[0]].to_numpy().tolist() == [[1, 0, 0], [0, 1, 0]]
    assert [_value_as_text(text) for text in ("007", "1e2", "1_0", "-3.0", "10", 0.5, "٣")] == [
        "007",
        "1e2",
        "1_0",
        "-3",
        "10",
        "0.5",
        "٣",
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x,x ,label\n1,1,red\n2,2,blue\n", "has two columns 'x': rename one"),
        ("x,x,label\n1,1,red\n2,2,blue\n", "has two columns 'x': rename one"),
        (",x,label\n0,1,red\n1,2,blue\n", "column 1 of .* has no name: .* only the row index .index=False"),
        ("x,y,label\n1,2,red,\n2,3,blue,\n", "has more values per row than names in its header"),
    ],
)
def test_columns_that_would_be_named_or_moved_by_the_reader_are_refused(text, message, tmp_path):
    (tmp_path / "one.csv").write_text(text)
    with pytest.raises(PolicyKDError, match=message):
        _read_csv(tmp_path / "one.csv", "label")


def test_held_out_rows_and_the_next_free_folder(files):
    for number in (1, 2):
        main(["cooperate", *OWN, "--held-out", "0.3"])
        assert "validation" in pd.read_csv(f"runs/cooperate_{number}/accuracy.csv")
    first, second = (pd.read_csv(f"runs/cooperate_{n}/lessons.csv") for n in (1, 2))
    pd.testing.assert_frame_equal(first, second)


def test_digits_without_any_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    main(["cooperate", "--learners", "logistic", "tree", "--search-steps", "3", "--run-dir", "run"])
    accuracy = pd.read_csv("run/accuracy.csv").pivot(index="learner", columns="round", values="validation")
    assert (accuracy[1] > accuracy[0] + 0.05).all()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["--label", "kin"], "one.csv has no column 'kin'; nearest: kind: name it with --label"),
        (["--data", "one.csv", "none.csv"], "cannot read none.csv"),
        (["--data", "one.csv"], "1 data files need one kind each, got logistic tree"),
        (["--learners", "logistic", "trees"], "'trees' is unknown; nearest: tree"),
        (["--validation", "held.csv", "held.csv", "held.csv"], "validation needs one file, or one for each of 2"),
        (["--held-out", "1.5"], "held_out=1.5 must lie between 0 and 1"),
        (["--held-out", "0.995"], "held_out=0.995 leaves none of the 33 rows of one.csv: lower it"),
        (["--seed", "-1"], "config: seed=-1 must not be negative"),
        (["--jobs", "0"], "config: jobs=0 must not be 0"),
        (["--run-dir", "."], "is not empty: choose another one"),
        (["--run-dir", "held.csv/run"], "run folder: held.csv/run cannot be made: held.csv is a file"),
    ],
)
def test_faults_are_one_line(files, changes, message, capsys):
    arguments = [word for word in OWN]
    before = sorted(files.rglob("*"))
    name = changes[0]
    if name in arguments:
        start = arguments.index(name)
        end = next((i for i in range(start + 1, len(arguments)) if arguments[i].startswith("--")), len(arguments))
        arguments[start:end] = []
    with pytest.raises(SystemExit) as stopped:
        main(["cooperate", *arguments, *changes])
    error = capsys.readouterr().err
    assert stopped.value.code == 2 and message in error and error.count("\n") == 1
    assert sorted(files.rglob("*")) == before, "nothing is left behind"


@pytest.mark.parametrize("changes", [["--validation", "held.csv"], ["--label", "kind"], ["--held-out", "0.3"]])
def test_options_of_files_need_files(files, changes, capsys):
    with pytest.raises(SystemExit):
        main(["cooperate", *changes])
    assert f"{changes[0]} applies to files only: name them with --data, or leave it out" in capsys.readouterr().err
