"""The tables of all methods of a teacher are those of the rows, and sentences about them hold."""

from pathlib import Path

import pandas as pd
import pytest

from experiments.teacher_student.methods import report
from policykd.distillation.methods import TEACHER_METHODS

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "results/teacher_student"
TEXT = " ".join((ROOT / "docs/students_measured.md").read_text(encoding="utf-8").split())


def kept(condition, column, steps="100,000", kind=float):
    """What students keep by method, as a column of the table shows it."""
    text = (FOLDER / "methods.md").read_text(encoding="utf-8")
    part = text.split(f"## {condition}, {steps} environment steps\n")[1].split("\n## ")[0]
    head, _, *lines = [line.strip("| ").split(" | ") for line in part.splitlines() if line.startswith("|")]
    return {line[0]: kind(line[head.index(column)]) for line in lines}


@pytest.mark.slow
def test_the_tables_are_those_of_the_rows(tmp_path):
    pytest.importorskip("rliable")
    report(pd.read_csv(FOLDER / "methods.csv"), tmp_path / "methods.md")
    assert (tmp_path / "methods.md").read_text(encoding="utf-8") == (FOLDER / "methods.md").read_text(encoding="utf-8")


def test_what_is_said_of_100000_steps():
    found = [kept(condition, "IQM") for condition in ("8x8 student", "no velocities")]
    for name in ("dagger", "student_driven", "bc"):
        assert f"| `{name}` | {found[0][name]:.2f} | {found[1][name]:.2f} |" in TEXT
    beside_rl = {name for name, row in TEACHER_METHODS.items() if row.coupling != "alone"} - {"fine_tune"}
    best = [max((of[name], name) for name in beside_rl) for of in found]
    cells = " | ".join(f"{value:.2f} (`{name}`)" for value, name in best)
    assert f"| best method alongside RL | {cells} |" in TEXT
    assert all(of["dagger"] == max(of.values()) for of in found) and "`dagger` is the choice" in TEXT
    blind = [kept("no velocities", task) for task in ("Hopper-v5", "Walker2d-v5")]
    dagger = " and ".join(f"{of.pop('dagger'):.2f}" for of in blind)
    others = " and ".join(f"{max(of.values()):.2f}" for of in blind)
    assert f"`dagger` keeps {dagger}, no other more than {others}" in TEXT


def test_what_is_said_of_300000_steps():
    in_both = "dagger", "student_driven", "kickstarting", "expected_entropy_regularised", "teacher_value_reward", "ppd"
    for condition, tasks, shown in (
        ("8x8 student", ("HalfCheetah-v5", "Hopper-v5", "Walker2d-v5"), (*in_both, "advisor")),
        ("no velocities", ("HalfCheetah-v5", "Hopper-v5", "Walker2d-v5"), (*in_both, "bc")),
    ):
        columns = []
        for task in tasks:
            before, after = (kept(condition, task, steps) for steps in ("100,000", "300,000"))
            anew = task == "Walker2d-v5"  # another teacher at each budget
            columns.append({name: f"{after[name]:.2f}" + ("" if anew else f" ({before[name]:.2f})") for name in after})
            assert condition == "8x8 student" or max(after, key=after.get) == "dagger"
        for name in shown:
            assert f"| `{name}` | {' | '.join(column[name] for column in columns)} |" in TEXT
    iqm, bounds = kept("8x8 student", "IQM", "300,000"), kept("8x8 student", "95 % interval", "300,000", str)
    first, second, third, *_ = sorted(iqm, key=iqm.get, reverse=True)
    low, high = bounds["dagger"].split(" to ")
    assert (first, second, third) == ("dagger", "student_driven", "kickstarting") and float(low) > iqm[second]
    said = (
        f"`dagger` keeps {iqm[first]:.2f} [{low}, {high}], `{second}` {iqm[second]:.2f} and `{third}` {iqm[third]:.2f}"
    )
    assert f"{said}: both are below its interval" in " ".join(TEXT.split())
    blind = kept("no velocities", "IQM", "300,000")
    low, high = kept("no velocities", "95 % interval", "300,000", str)["dagger"].split(" to ")
    assert (
        f"it keeps {blind.pop('dagger'):.2f} [{low}, {high}], and no other more than {max(blind.values()):.2f}" in TEXT
    )
    rows = pd.read_csv(FOLDER / "methods.csv").query("task == 'Walker2d-v5'")
    teachers = [f"{of.intact_return.iloc[0]:,.0f}" for _, of in rows.groupby("steps")]
    assert rows.groupby("steps").intact_return.nunique().eq(1).all() and rows.condition.nunique() == 2
    assert f"another one at each budget, with returns of {' and '.join(teachers)}" in TEXT
    walker = kept("8x8 student", "Walker2d-v5", "300,000")
    beside_rl = {name for name, row in TEACHER_METHODS.items() if row.coupling != "alone"} - {"fine_tune"}
    assert max(walker[name] for name in beside_rl) < walker["dagger"] / 2


def test_a_reward_for_the_teachers_actions_alone_ends_below_random_where_episodes_may_end():
    rows = pd.read_csv(FOLDER / "methods.csv").query("method == 'entropy_regularised' and steps == 100000")
    below = (rows["return"] < rows.random_return).groupby([rows.task, rows.condition]).mean()
    assert {task for task, _ in below.index} == {"HalfCheetah-v5", "Hopper-v5", "Walker2d-v5"}
    assert (below.drop("HalfCheetah-v5") == 1).all() and "ends below random actions on Hopper and on Walker2d" in TEXT
