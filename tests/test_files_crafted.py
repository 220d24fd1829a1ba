"""Files that mean harm: nothing in them is run, nothing beyond them is read or written, and each is one line."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from crafted_files import FINE

HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory):
    """What came of each file, all loaded in a process of their own."""
    folder = tmp_path_factory.mktemp("crafted")
    script = [sys.executable, str(HERE / "crafted_files.py"), str(folder)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([*filter(None, sys.path), str(HERE.parent)])}
    done = subprocess.run(script, cwd=folder, env=environment, capture_output=True, text=True, timeout=500)
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    begun = [line["begins"] for line in lines if "begins" in line]
    assert done.returncode == 0, f"{begun[-1:]}: {done.stderr[-2000:]}"  # a crash ends it at the file that crashed it
    found = [line for line in lines if "case" in line]
    assert [line["case"] for line in found] == begun
    return found


def test_there_are_hundreds_of_them_over_all_loaders(outcomes):
    assert len(outcomes) >= 400
    loaders = {one["case"].partition(":")[0] for one in outcomes}
    assert len(loaders) >= 15


def test_nothing_in_a_file_is_run(outcomes):
    assert [one["case"] for one in outcomes if one["marked"]] == []


def test_nothing_beyond_a_file_is_read_or_written_and_nothing_is_started(outcomes):
    assert [(one["case"], one["seen"]) for one in outcomes if one["seen"]] == []


def test_each_is_refused_in_one_line(outcomes):
    assert [one for one in outcomes if one["outcome"] not in ("refused", "loaded")] == []
    assert [one for one in outcomes if "\n" in one["text"]] == []
    assert {one["case"] for one in outcomes if one["outcome"] == "loaded"} <= FINE
