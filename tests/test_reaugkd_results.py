"""The scripts of ReAugKD's tables: they resume, and the committed tables are what the committed rows say."""

import importlib
from pathlib import Path

import pandas as pd
import pytest
import torch
from test_text import folder, reviews, write  # noqa: F401  (folder is a fixture)

from policykd import PolicyKDError
from policykd.benchmark.measurements import Measurements

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "results/reaugkd"
PAGE = ROOT / "docs/methods/reaugkd.md"


@pytest.fixture
def script(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    return importlib.import_module


def test_digits_script_measures_all_rows_of_a_size(script):
    digits = script("reaugkd_digits")
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(1200) % 10
    images = torch.randn(10, 1, 28, 28, generator=generator)[labels]
    images = images + torch.randn(1200, 1, 28, 28, generator=generator)
    size = digits.Size("tanh", 4, 4, 100, 2, 1e-3, 2)
    found = digits.measure(size, 0, (images, labels), (images[:50], labels[:50]))
    neighbours = digits.nearest_neighbours(size, 0, (images, labels), (images[:50], labels[:50]))
    assert [row["row"] for row in neighbours] == ["neighbours", "neighbours_pca"]
    assert neighbours[0]["accuracy"] == 1.0 > 0.1  # noise of deviation 1 on 784 pixels hides no digit
    found += neighbours
    assert {row["row"] for row in found} == set(digits.ROWS)
    assert {row["beta"] for row in found if row["row"] in ("kd", "reaugkd_student")} == {1.0}
    assert {row["beta"] for row in found if row["row"].endswith("retrieval")} == {0.0}


def test_glue_script_resumes(script, folder, tmp_path, monkeypatch, capsys):  # noqa: F811
    glue = script("reaugkd_glue")
    rows = "".join(f"{text}\t{label}\n" for text, label in zip(*reviews(60, 5)[::2], strict=True))
    (tmp_path / "glue").mkdir()
    write(tmp_path / "glue" / "RTE", "sentence\tlabel\n" + rows, "sentence\tlabel\n" + rows)
    page = tmp_path / "page.md"
    page.write_text("<!-- glue table: begin -->\n<!-- glue table: end -->\n")
    options = glue.Options(
        glue=tmp_path / "glue",
        model=folder,
        tasks=("RTE",),
        seeds=(0,),
        layers=1,
        epochs=1,
        out=tmp_path / "out",
        teachers=tmp_path / "teachers",
        page=page,
    )
    monkeypatch.setattr(glue, "VARIANTS", {name: glue.VARIANTS[name] for name in ("hinton", "reaugkd")})
    glue.main(options)
    written = (tmp_path / "out" / "glue.csv").read_text()
    assert set(pd.read_csv(tmp_path / "out/glue.csv")["row"]) == {"teacher", "hinton", "reaugkd", "reaugkd_student"}
    sweep = pd.read_csv(tmp_path / "out/glue_sweep.csv")
    assert len(sweep) == len(glue.COUNTS) + len(glue.SHARES) - 1 and sweep["score"].between(0, 1).all()
    assert "| ReAugKD |" in page.read_text() and (tmp_path / "out/glue.png").exists()
    monkeypatch.setattr(glue, "one_student", lambda *_: pytest.fail("measured again"))
    glue.main(options)
    assert (tmp_path / "out" / "glue.csv").read_text() == written


def test_glue_script_says_what_it_needs(script, monkeypatch):
    glue = script("reaugkd_glue")
    monkeypatch.delenv("POLICYKD_MODEL", raising=False)
    with pytest.raises(PolicyKDError, match="model: give --model FOLDER, or set POLICYKD_MODEL"):
        glue.read_task(glue.Options(), "RTE")


def published(name):
    return PAGE.read_text().split(f"<!-- {name} table: begin -->\n")[1].split(f"<!-- {name} table: end -->")[0]


def rows_of(name):
    """Committed rows."""
    path = RESULTS / f"{name}.csv"
    if not path.exists():
        pytest.skip(f"{name}.csv has not been measured yet")
    return pd.read_csv(path)


def test_digits_table_is_that_of_the_rows(script, tmp_path):
    digits, _ = script("reaugkd_digits"), rows_of("digits")
    rows = Measurements(RESULTS / "digits.csv", digits.KEYS, digits.VALUES)
    assert digits.write_report(rows, tmp_path) == published("digits") == (RESULTS / "digits.md").read_text()


def test_retrieval_gains_on_digits_and_needs_the_relational_loss(script):
    size = list(script("reaugkd_digits").Size._fields)
    rows = rows_of("digits").pivot(index=[*size, "seed"], columns="row", values="accuracy")
    assert rows["kd_retrieval"].max() < 0.5 < rows["reaugkd_retrieval"].min()
    gains = (rows["reaugkd"] - rows["kd"]).groupby(size).mean()
    assert gains["tanh", 8, 8, 3000, 40, 0.002, 3] >= 0.01  # section 1's student; the other columns are what they are


def test_glue_table_is_that_of_the_rows(script, tmp_path):
    glue, _ = script("reaugkd_glue"), rows_of("glue")
    assert glue.write_report(glue.open_results(RESULTS), tmp_path) == published("glue")


def test_cost_table_is_that_of_the_rows(script):
    memory = rows_of("memory").set_index("what")["value"]
    assert memory["peak_mb"] < 2000 and memory["keys"] == 1_000_000
    assert script("reaugkd_cost").write_report(RESULTS) == published("cost")


def test_committed_latency_of_the_paper_s_student_and_recall():
    latency = rows_of("latency").set_index(["layers", "keys", "sentences", "index"])["overhead"]
    assert latency[6, 10_000, 1, "int8"] < 0.05 and latency[6, 10_000, 32, "int8"] < 0.05
    assert latency[3, 10_000, 32, "int8"] < 0.05 and latency[3, 10_000, 32, "exact"] < 0.05
    recall = rows_of("recall").set_index(["data", "index", "effort"])["recall_at_10"]
    assert recall["clusters", "hnsw", 128] >= 0.98 and recall["uniform", "hnsw", 1024] >= 0.98
    assert recall["clusters", "int8", 0] >= 0.98 and recall["uniform", "int8", 0] >= 0.98
