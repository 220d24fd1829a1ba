"""The experiments on ReAugKD, in small: what they measure, and that they go on where they stopped."""

import pandas as pd
import pytest
import torch

pytest.importorskip("transformers")

from test_text import folder, reviews, write  # noqa: F401  (folder is a fixture)

from experiments.reaugkd import digits, glue
from policykd import PolicyKDError


def test_digits_script_measures_all_rows_of_a_size():
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(1200) % 10
    images = torch.randn(10, 1, 28, 28, generator=generator)[labels]
    images = images + torch.randn(1200, 1, 28, 28, generator=generator)
    size = digits.Size("tanh", 4, 4, 100, 2, 1e-3, 2)
    found = digits.measure(size, 0, (images, labels), (images[:50], labels[:50]))
    neighbours = digits.nearest_neighbours(size, 0, (images, labels), (images[:50], labels[:50]))
    assert [row["row"] for row in neighbours] == ["neighbours", "neighbours_pca"]
    assert neighbours[0]["accuracy"] == 1.0  # noise of deviation 1 on 784 pixels hides no digit
    found += neighbours
    assert {row["row"] for row in found} == set(digits.ROWS)
    assert {row["beta"] for row in found if row["row"] in ("kd", "reaugkd_student")} == {1.0}
    assert {row["beta"] for row in found if row["row"].endswith("retrieval")} == {0.0}


def test_glue_script_resumes(folder, tmp_path, monkeypatch):  # noqa: F811
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
    written = (tmp_path / "out" / "glue.csv").read_text(encoding="utf-8")
    assert set(pd.read_csv(tmp_path / "out/glue.csv")["row"]) == {"teacher", "hinton", "reaugkd", "reaugkd_student"}
    sweep = pd.read_csv(tmp_path / "out/glue_sweep.csv")
    assert len(sweep) == len(glue.COUNTS) + len(glue.SHARES) - 1 and sweep["score"].between(0, 1).all()
    assert "| ReAugKD |" in page.read_text(encoding="utf-8") and (tmp_path / "out/glue.png").exists()
    monkeypatch.setattr(glue, "one_student", lambda *_: pytest.fail("measured again"))
    glue.main(options)
    assert (tmp_path / "out" / "glue.csv").read_text(encoding="utf-8") == written


def test_glue_script_says_what_it_needs(monkeypatch):
    monkeypatch.delenv("POLICYKD_MODEL", raising=False)
    with pytest.raises(PolicyKDError, match="model: give --model FOLDER, or set POLICYKD_MODEL"):
        glue.read_task(glue.Options(), "RTE")
