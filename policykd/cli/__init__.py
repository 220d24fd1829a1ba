"""The ``policykd`` command, one file per sub-command."""

from __future__ import annotations

import importlib
import io
import logging
import os
import select
import sys
import warnings
from collections.abc import Callable, Sequence
from importlib import metadata

from policykd.core import plugins
from policykd.core.errors import PolicyKDError, nearest
from policykd.core.interrupts import CTRL_C, Stopped, terminating

UNREAD = 141
"""Exit status when the reader of the output has gone away: 128 + SIGPIPE, as other programs return."""
COMMANDS: dict[str, str] = {
    "train": "Train groups of peers that learn from one another.",
    "distill": "Train small students of a frozen teacher, of one size or of several.",
    "compare": "Compare peers with a Stable-Baselines3 agent, at equal budgets and evaluations.",
    "benchmark": "Run or resume a benchmark: tasks x methods x seeds, here or on a cluster.",
    "report": "Make the tables and the page of a benchmark's results.",
    "classify": "Distil a classifier into a smaller one.",
    "text": "Distil a transformer text classifier into one with fewer layers.",
    "cooperate": "Let classifiers of several owners teach one another with counterfactuals.",
    "fidelity": "Measure how closely the student of a run follows its teacher, against a control.",
    "doctor": "Diagnose a failing distillation: teacher, task, observations, student, learning.",
    "ship": "Distil every group of peers of a run into one small student.",
    "evaluate": "Evaluate the learners of a run or checkpoint.",
    "export": "Write a learner as an SB3 zip, ONNX, TorchScript, C or a folder for the Hugging Face Hub.",
    "video": "Record one episode of a learner as MP4.",
}
"""Sub-commands, each in the file of its name, imported only when used.

A short one is ``run(arguments)``; a long one ``read(arguments)``, without torch, and ``run(options)`` in ``*_run.py``.
"""


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point of ``policykd``: errors that the user can fix end in one line and exit status 2."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    if isinstance(sys.stdout, io.TextIOWrapper):  # names that its encoding lacks must not end a command
        sys.stdout.reconfigure(errors="backslashreplace")
    guarded(lambda: _run(arguments))


def guarded(job: Callable[[], None]) -> None:
    """Run a job; errors that the user can fix end in one line on stderr and exit status 2, signals in ``Stopped``'s."""
    try:
        with terminating():
            _run_and_flush(job)
    except _user_errors() as error:
        if isinstance(error, BrokenPipeError) and _output_is_closed():
            sys.exit(UNREAD)
        print(f"policykd: error: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(2)
    except Stopped as stopped:
        sys.exit(stopped.status)
    except KeyboardInterrupt:
        sys.exit(CTRL_C)


def _run_and_flush(job: Callable[[], None]) -> None:
    """Run a job and flush its output, so that a failure to print is reported like other errors."""
    try:
        job()
    except SystemExit:
        sys.stdout.flush()
        raise
    sys.stdout.flush()


def _output_is_closed() -> bool:
    """Whether the reader of the output has gone away, as with ``head``; the remaining output is then discarded."""
    output = sys.stdout.fileno()
    pipe = select.poll()
    pipe.register(output, 0)  # errors are reported whatever the mask
    if not pipe.poll(0):
        return False
    os.dup2(os.open(os.devnull, os.O_WRONLY), output)
    return True


def _user_errors() -> tuple[type[Exception], ...]:
    """Errors reported in one line; gymnasium's only once it is imported, since ``--help`` does without it."""
    errors: tuple[type[Exception], ...] = (PolicyKDError, OSError)  # a full disk, a folder that may not be written
    if "gymnasium" in sys.modules:  # a broken environment
        errors += (sys.modules["gymnasium"].error.Error,)
    return errors


def _run(arguments: list[str]) -> None:
    """Import the named plugins, then run the command."""
    modules, rest = plugins.take(arguments)
    if rest[:1] == ["--version"]:
        print(f"policykd {metadata.version('policykd')}")
        return
    if not arguments or rest[:1] in (["-h"], ["--help"]):
        lines = [f"  {name:10}{summary}" for name, summary in COMMANDS.items()]
        usage = "usage: policykd [--plugins MODULE] COMMAND [options]   (policykd COMMAND --help)"
        print(f"{usage}\n\n" + "\n".join(lines))
        return
    plugins.load(modules)
    if not rest:
        raise PolicyKDError(f"command: missing: choose one of {', '.join(COMMANDS)}")
    _dispatch(*rest)


def _dispatch(name: str, *arguments: str) -> None:
    if name not in COMMANDS:
        raise PolicyKDError(f"command: {name!r} is unknown{nearest(name, COMMANDS)}; there are {', '.join(COMMANDS)}")
    command = importlib.import_module(f"policykd.cli.{name}")
    with warnings.catch_warnings():
        show = warnings.showwarning
        # Warnings of gymnasium, imported only after parsing, would add a second line before an error.
        warnings.showwarning = lambda text, *where: None if "WARN: " in str(text) else show(text, *where)
        if hasattr(command, "run"):
            command.run(arguments)
        else:
            options = command.read(arguments)  # wrong arguments are reported without importing torch
            importlib.import_module(f"policykd.cli.{name}_run").run(options)
