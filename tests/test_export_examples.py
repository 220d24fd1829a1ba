"""The examples of export and doctor run, and say what they are there to show."""

import importlib.util
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parent.parent / "examples"


def load(name):
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_student_is_written_as_c(tmp_path, capsys):
    load("export_to_c").main(tmp_path, steps=1_000)
    said = capsys.readouterr().out
    assert said.count("bytes of constants") == 3 and said.count("us for one observation") == 2
    assert (tmp_path / "float32" / "policy.c").exists() and (tmp_path / "int8" / "policy.c").exists()


def test_the_doctor_finds_what_the_student_cannot_see(capsys):
    load("doctor").main(updates=200)
    said = capsys.readouterr().out
    assert "wrong: what the student sees. To do: " in said
    assert said.rstrip().endswith("nothing wrong was found")


@pytest.mark.parametrize("name", ["export_to_c", "doctor"])
def test_an_example_is_short(name):
    assert 20 <= len((EXAMPLES / f"{name}.py").read_text(encoding="utf-8").splitlines()) <= 60
