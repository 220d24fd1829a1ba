"""Committed results of ReAugKD: the tables are those of the rows, and the rows hold what is claimed."""

from pathlib import Path

import pandas as pd
import pytest

pytest.importorskip("transformers")

from experiments.measurements import Measurements, interval
from experiments.reaugkd import cost, digits, glue, glue_neighbours, larger

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "results/reaugkd"
PAGE = ROOT / "docs/methods/reaugkd.md"


def published(name):
    return (
        PAGE.read_text(encoding="utf-8")
        .split(f"<!-- {name} table: begin -->\n")[1]
        .split(f"<!-- {name} table: end -->")[0]
    )


def rows_of(name):
    """Committed rows."""
    path = RESULTS / f"{name}.csv"
    if not path.exists():
        pytest.skip(f"{name}.csv has not been measured yet")
    return pd.read_csv(path)


def test_digits_table_is_that_of_the_rows(tmp_path):
    rows_of("digits")
    rows = Measurements(RESULTS / "digits.csv", digits.KEYS, digits.VALUES)
    assert (
        digits.write_report(rows, tmp_path)
        == published("digits")
        == (RESULTS / "digits.md").read_text(encoding="utf-8")
    )


def test_retrieval_gains_on_digits_and_needs_the_relational_loss():
    size = list(digits.Size._fields)
    rows = rows_of("digits").pivot(index=[*size, "seed"], columns="row", values="accuracy")
    assert rows["kd_retrieval"].max() < 0.5 < rows["reaugkd_retrieval"].min()
    gains = (rows["reaugkd"] - rows["kd"]).groupby(size).mean()
    assert gains["tanh", 8, 8, 3000, 40, 0.002, 3] >= 0.01  # section 1's student; the other columns are what they are


def test_what_a_memory_larger_than_the_training_set_gains():
    rows = Measurements(RESULTS / "larger.csv", larger.KEYS, larger.VALUES)
    assert larger.table(rows) == published("larger") == (RESULTS / "larger.md").read_text(encoding="utf-8")
    text = " ".join(PAGE.read_text(encoding="utf-8").split())
    mean = rows_of("larger").groupby(["images", "row"])["accuracy"].mean().round(3)
    for images in (150, 500):
        gain = 100 * (
            rows.values("accuracy", images=images, row="all") - rows.values("accuracy", images=images, row="own")
        )
        points, half = interval(pd.Series(gain), 1).split(" ± ")
        assert f"{points}" in text and f"({half}) with" in text
        assert f"{mean[images, 'own']:.3f} beside {mean[images, 'neighbours_pca_own']:.3f}" in text
    assert f"nearest neighbours alone ({mean[3000, 'neighbours_pca_all']:.3f})" in text
    assert f"trains the student on them ({mean[3000, 'reaugkd_student']:.3f} without" in text
    assert f"it is below ({mean[3000, 'own']:.3f} beside {mean[3000, 'neighbours_pca_own']:.3f})" in text


def test_neighbours_by_words_beside_the_students():
    rows_of("glue_neighbours")
    rows = glue_neighbours.open_rows(RESULTS)
    text = (RESULTS / "glue_neighbours.md").read_text(encoding="utf-8")
    assert glue_neighbours.table(rows) == text == published("glue neighbours")
    of_students = rows_of("glue").query("row != 'teacher'").groupby(["task", "row"]).mean(numeric_only=True)
    students = {task: of_students.loc[task][measure].max() for task, measure in glue.TASKS.items()}
    words = {task: rows.values("test", task=task, keys="words").item() for task in glue.TASKS}
    assert abs(words["MRPC"] - students["MRPC"]) < 0.005 and words["CoLA"] > students["CoLA"]
    assert words["SST-2"] < students["SST-2"] - 0.1


def test_glue_table_is_that_of_the_rows(tmp_path):
    rows_of("glue")
    assert glue.write_report(glue.open_results(RESULTS), tmp_path) == published("glue")


def test_glue_after_ten_passes_is_as_the_page_says(tmp_path):
    rows = rows_of("glue_ten_passes")
    results = glue.open_results(RESULTS, "glue_ten_passes")
    assert glue.write_report(results, tmp_path, "glue_ten_passes") == published("glue_ten_passes")
    assert set(rows["seed"]) == set(range(5)) and set(rows["passes"]) == {10}
    text = " ".join(PAGE.read_text(encoding="utf-8").split())
    gains = {task: 100 * glue._difference(results.rows, task) for task in ("MRPC", "SST-2")}
    assert f"ReAugKD is {gains['MRPC'].mean():.1f} (MRPC) and {gains['SST-2'].mean():.1f} points (SST-2) above" in text
    assert all(gain.mean() < gain.std(ddof=1) / 2 for gain in gains.values())
    betas = rows[rows["row"] == "reaugkd"].set_index(["task", "seed"])["beta"]
    assert (betas["MRPC"] == 1).all() and (betas["SST-2"] < 1).all()
    accuracy = rows[rows["task"] == "SST-2"].pivot(index="seed", columns="row", values="accuracy")
    assert f"it gained {100 * (accuracy['reaugkd'] - accuracy['reaugkd_student']).mean():.1f} points" in text


def test_cost_table_is_that_of_the_rows():
    memory = rows_of("memory").set_index("what")["value"]
    assert memory["peak_mb"] < 2000 and memory["keys"] == 1_000_000
    assert cost.write_report(RESULTS) == published("cost")


def test_committed_latency_of_the_paper_s_student_and_recall():
    latency = rows_of("latency").set_index(["layers", "keys", "sentences", "index"])["overhead"]
    assert latency[6, 10_000, 1, "int8"] < 0.05 and latency[6, 10_000, 32, "int8"] < 0.05
    assert latency[3, 10_000, 32, "int8"] < 0.05 and latency[3, 10_000, 32, "exact"] < 0.05
    recall = rows_of("recall").set_index(["data", "index", "effort"])["recall_at_10"]
    assert recall["clusters", "hnsw", 128] >= 0.98 and recall["uniform", "hnsw", 1024] >= 0.98
    assert recall["clusters", "int8", 0] >= 0.98 and recall["uniform", "int8", 0] >= 0.98
