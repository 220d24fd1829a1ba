"""Several processes compute what one does, and the base package needs none of the extra."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from classifiers import FAST, in_a_process


@pytest.mark.slow
def test_two_processes_compute_what_one_does(tmp_path):
    """The same batches shared by two CPU processes: losses and weights are equal up to rounding."""
    paths = [tmp_path / "one.json", tmp_path / "two.json"]
    in_a_process(paths[0])
    command = [sys.executable, str(Path(__file__).parent / "support" / "classifiers.py"), "2", str(paths[1])]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    one, two = (json.loads(path.read_text(encoding="utf-8")) for path in paths)
    assert (one["processes"], two["processes"]) == (1, 2)
    assert two["smallest_batch"] == FAST["batch_size"] // 2
    assert len(one["losses"]) == 6 and one["losses"] == pytest.approx(two["losses"], abs=1e-5)  # 3 passes of 6 steps
    for a, b in zip(one["weights"], two["weights"], strict=True):
        assert np.allclose(a, b, atol=1e-5)
    for a, b in zip(one["history"], two["history"], strict=True):
        assert a == pytest.approx(b, abs=1e-4)


def test_base_import_needs_none_of_the_extra():
    code = (
        "import sys\n"
        "for name in ('accelerate', 'torchmetrics', 'sklearn'): sys.modules[name] = None\n"
        "import policykd, policykd.cli.classify_run\n"
        "try: policykd.Distiller(policykd.classification.models.MLP(2, [2], 2), None, method='cross_entropy')\n"
        "except policykd.PolicyKDError as error: print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert 'pip install "policykd[classification]"' in done.stdout
