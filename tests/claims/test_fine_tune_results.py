"""The committed table of fine-tuning is that of the committed rows, and the page says what they say."""

from pathlib import Path

from experiments.fine_tune.report import AS_IT_WAS, KEYS, VALUES, summary, table
from experiments.measurements import Measurements

ROOT = Path(__file__).parents[2]


def test_no_evaluation_is_below_what_the_student_was_and_the_page_says_the_figures():
    measured = Measurements(ROOT / "results/fine_tune/rows.csv", KEYS, VALUES)
    assert table(measured) + "\n" == (ROOT / "results/fine_tune/table.md").read_text()
    runs = summary(measured)
    held = runs[(runs.way != AS_IT_WAS) & (runs.env == "Pendulum-v1") & (runs.way == "fine_tune()")]
    assert len(held) == 3 and (held.lowest >= 0.9).all() and (held.end >= 1).all()
    ends = " ".join(f"{value:.2f}" for value in held.end)
    assert f"| {ends} |" in (ROOT / "docs/teacher_student.md").read_text()
