"""Every command that a page or the first lines of a program name is one that its program takes: parsed, never run."""

import argparse
import contextlib
import functools
import importlib
import inspect
import re
import runpy
import shlex
import sys
from pathlib import Path
from unittest.mock import patch

import pytest
import tyro

from policykd.cli import main
from policykd.core import plugins
from policykd.distillation.divergences import DIVERGENCES
from policykd.distillation.methods import PEER_METHODS
from policykd.learners import LEARNERS
from policykd.learners.settings import NETWORKS

ROOT = Path(__file__).parents[1]
ROOMS = ("docs", "benchmarks", "envs", "examples", "experiments", "results", "scripts")
PAGES = [*ROOT.glob("*.md"), *(page for room in ROOMS for page in (ROOT / room).rglob("*.md"))]
PROGRAMS = [path for room in ("examples", "experiments", "scripts") for path in (ROOT / room).rglob("*.py")]
COMMAND = r"((?:policykd|python (?:-m (?=experiments\.)|(?=examples/|scripts/))[^\s`]+)(?: [^`#|&\n]+)?)"
LINE = re.compile(rf"^ *(?:cd examples; )?(?:\w+=\S+ )*{COMMAND}", re.MULTILINE)
MISSING = {"brax_env": "brax", "log_to_wandb": "wandb", "tune_with_optuna": "optuna", "optuna_control": "optuna"}


def written():
    """Command lines of blocks and first lines, and the commands of which sentences name an option, each once."""
    lines, named = {}, {}
    for path in sorted([*PAGES, *PROGRAMS]):
        text = path.read_text(encoding="utf-8").replace("\\\n", " ")
        blocks = re.findall(r"```bash\n(.*?)```", text, re.DOTALL) if path.suffix == ".md" else [text]
        lines |= dict.fromkeys(" ".join(line.split()) for block in blocks for line in LINE.findall(block))
        named |= dict.fromkeys(re.findall(rf"`{COMMAND}`", text))
    whole = [line for line in lines if " " in line and not {"...", "--help"} & set(line.split())]
    return whole, [command for command in named if re.search(r" [^-].* --", command)]


LINES, NAMED = written()
MEASURING = sorted(
    path.relative_to(ROOT).as_posix()
    for path in PROGRAMS
    if "experiments" in path.parts and "__main__" in path.read_text(encoding="utf-8")
)


class Taken(Exception):
    """The words were understood."""


def taken(*_, **__):
    raise Taken


@pytest.fixture(autouse=True)
def only_parsed(monkeypatch, tmp_path):
    """What would begin once its words are read ends there."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(ROOT / "examples")  # plugins
    tables = PEER_METHODS, DIVERGENCES, LEARNERS, NETWORKS
    cli, parse_args = tyro.cli, argparse.ArgumentParser.parse_args

    def alone(what, **given):
        is_type = inspect.isclass(getattr(what, "__origin__", what))
        taken(cli(what if is_type else functools.wraps(what)(taken), **given))

    monkeypatch.setattr(tyro, "cli", alone)
    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", lambda parser: taken(parse_args(parser)))
    with contextlib.ExitStack() as stack:
        for table in tables:
            stack.enter_context(patch.dict(table))
        yield
    for name in ("own_method", "own_network", "own_learner"):
        sys.modules.pop(name, None)


def begin(words, monkeypatch):
    """A program up to where its words have been read."""
    monkeypatch.setattr(sys, "argv", words)
    for name, package in MISSING.items():
        if name in words[0]:
            pytest.importorskip(package)
    if words[0].endswith(".py"):
        runpy.run_path(str(ROOT / words[0]), run_name="__main__")
    else:
        runpy.run_module(words[0], run_name="__main__", alter_sys=True)


@pytest.mark.parametrize("command", LINES)
def test_a_command_line_is_understood(command, monkeypatch):
    program, *words = shlex.split(command)
    with pytest.raises(Taken):
        if program == "policykd":
            modules, (name, *rest) = plugins.take(words)
            plugins.load(modules)
            module = importlib.import_module(f"policykd.cli.{name}")
            if hasattr(module, "read"):
                monkeypatch.undo()
                taken(module.read(rest))
            module.run(rest)
        begin([word for word in words if word != "-m"], monkeypatch)


@pytest.mark.parametrize("command", NAMED)
def test_an_option_that_a_sentence_names_is_there(command, monkeypatch, capsys):
    program, *words = shlex.split(command)
    monkeypatch.setenv("COLUMNS", "200")
    with pytest.raises(SystemExit):
        if program == "policykd":
            main([*plugins.take(words)[1][:1], "--help"])
        begin([next(word for word in words if word != "-m"), "--help"], monkeypatch)
    options = {word for word in words if word.startswith("--")} - {"--help", "--plugins"}
    assert options <= set(re.findall(r"--[a-z][\w-]*", capsys.readouterr().out))


@pytest.mark.parametrize("program", MEASURING)
def test_a_measuring_program_tells_its_options_and_ends_in_one_line(program, monkeypatch, capsys):
    assert "    guarded(" in (ROOT / program).read_text(encoding="utf-8").partition("if __name__")[2]
    with pytest.raises(SystemExit) as end:
        begin([program.removesuffix(".py").replace("/", "."), "--help"], monkeypatch)
    assert end.value.code == 0 and "usage: " in capsys.readouterr().out
    assert not list(Path().iterdir())
