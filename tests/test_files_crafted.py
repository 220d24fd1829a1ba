"""Files that mean harm: nothing in them is run, nothing beyond them is read or written, and each is one line."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from crafted_files import FINE

HERE = Path(__file__).parent


def outcomes(folder):
    """What came of each file, all loaded in a process of their own."""
    script = [sys.executable, str(HERE / "crafted_files.py"), str(folder)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([*filter(None, sys.path), str(HERE.parent)])}
    done = subprocess.run(script, cwd=folder, env=environment, capture_output=True, text=True, timeout=500)
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    begun = [line["begins"] for line in lines if "begins" in line]
    assert done.returncode == 0, f"{begun[-1:]}: {done.stderr[-2000:]}"  # a crash ends it at the file that crashed it
    found = [line for line in lines if "case" in line]
    assert [line["case"] for line in found] == begun
    return found


@pytest.mark.slow
def test_hundreds_of_files_over_all_loaders_do_no_harm_and_each_is_one_line(tmp_path):
    found = outcomes(tmp_path)
    assert len(found) >= 400 and len({one["case"].partition(":")[0] for one in found}) >= 15
    assert [one["case"] for one in found if one["marked"]] == []  # nothing in a file is run
    assert [(one["case"], one["seen"]) for one in found if one["seen"]] == []  # nothing beyond it is read or written
    assert [one for one in found if one["outcome"] not in ("refused", "loaded")] == []
    assert [one for one in found if "\n" in one["text"]] == []
    assert {one["case"] for one in found if one["outcome"] == "loaded"} <= FINE
