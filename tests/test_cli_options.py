"""What tyro says in a box is one line, whatever the terminal can draw."""

import contextlib
import io

import pytest

from policykd.cli.evaluate import EvaluateOptions
from policykd.cli.options import parse, peek
from policykd.core.errors import PolicyKDError


@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
@pytest.mark.parametrize(
    ("words", "says"),
    [
        (
            [],
            "Missing from policykd evaluate: PATH A run folder or a saved agent. (required) (policykd evaluate --help)",
        ),
        (["run", "--sede", "2"], "Unrecognized options: --sede, 2; nearest: --seed (policykd evaluate --help)"),
        (["run", "--seed", "x"], "Error parsing --seed: invalid literal for int() with base 10: 'x'"),
    ],
)
def test_a_wrong_word_is_one_line(encoding, words, says):
    with contextlib.redirect_stdout(io.TextIOWrapper(io.BytesIO(), encoding)), pytest.raises(PolicyKDError) as error:
        parse(EvaluateOptions, words, "evaluate")
    assert str(error.value).startswith(says)


def test_flags_that_decide_what_the_others_are_are_read_first():
    assert peek(["--env", "a", "--config_file=b", "x", "--other"], "env", "config-file") == {
        "env": "a",
        "config_file": "b",
    }
    with pytest.raises(PolicyKDError, match="expected one argument"):
        peek(["--env"], "env")
