"""What docs/students_measured.md says of what default students keep is what the committed rows say."""

from pathlib import Path

import pandas as pd

from experiments.teacher_student.retention import table

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/students_measured.md").read_text(encoding="utf-8")
ROWS = pd.read_csv(ROOT / "results/teacher_student/retention.csv")


def test_the_table_is_that_of_the_rows():
    shown = PAGE.split("<!-- retention table: begin -->\n")[1].split("<!-- retention table: end -->")[0]
    assert shown == table(ROWS)
    assert set(ROWS["seed"]) == set(range(5))


def test_what_default_students_keep():
    text = " ".join(PAGE.split())
    default = ROWS[ROWS["variant"] == "default"].groupby(["teacher", "steps"])["retention"].mean()
    last, late = default.xs(100_000, level="steps"), default[default.index.get_level_values("steps") > 50_000]
    assert f"keep {last.min():.3f} to {last.max():.3f} of four teachers" in text and len(last) == 4
    assert f"they keep {late.min():.3f} at least at every check" in text
    walker = ROWS[(ROWS["teacher"] == "PPO Walker2d") & (ROWS["steps"] == 100_000)].set_index("variant")
    assert (
        f"returns {walker['teacher_return_here'].mean():,.0f}, falls in {walker['teacher_falls'].mean():.0f} of 20"
        in text
    )
    assert abs(walker.loc["default", "falls"].mean() - walker["teacher_falls"].mean()) < 1
    kept = walker["retention"].groupby("variant")
    half = 2.776 * kept.std() / 5**0.5
    assert ((kept.mean() - kept.mean()["default"]).abs() < half["default"]).all() and len(half) == 4
    slower = ROWS[(ROWS["teacher"] == "SAC HalfCheetah") & (ROWS["variant"] == "default") & (ROWS["steps"] == 100_000)]
    assert f"loses {100 * (1 - slower['retention'].mean()):.1f} % without a fall" in text and not slower["falls"].any()
