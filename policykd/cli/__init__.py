"""The ``policykd`` command, one file per sub-command. The files in ``scripts/`` are the same entry points."""

from __future__ import annotations

import importlib
import logging
import sys
from collections.abc import Callable, Sequence

import gymnasium as gym

from policykd.core.errors import PolicyKDError, nearest

COMMANDS: dict[str, str] = {
    "train": "Train groups of peers that learn from one another.",
    "distill": "Train small students of a frozen teacher, of one size or of several.",
    "compare": "Train peers beside Stable-Baselines3; with --parity every backbone, on several tasks and seeds.",
    "benchmark": "Run a benchmark: tasks x methods x seeds, here or on a cluster; go on where it stopped.",
    "report": "Make the tables and the page of a benchmark's results.",
    "classify": "Distil a classifier into a smaller one.",
    "text": "Distil a transformer that classifies text into one of fewer layers.",
    "cooperate": "Let classifiers of several owners teach one another by counterfactuals.",
    "fidelity": "Compare the student of a run with its teacher, and with a control.",
    "evaluate": "Evaluate the learners of a run or checkpoint.",
    "export": "Write a learner as an SB3 zip, ONNX, TorchScript or a folder for the Hugging Face Hub.",
    "video": "Record one episode of a learner as MP4.",
}
"""Sub-commands; each is ``run(arguments)`` in the file of its name, imported only when it is asked for."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point of ``policykd``: what a user can mend ends in one line and exit status 2."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    if not arguments or arguments[0] in ("-h", "--help"):
        lines = [f"  {name:10}{summary}" for name, summary in COMMANDS.items()]
        print("usage: policykd COMMAND [options]   (policykd COMMAND --help)\n\n" + "\n".join(lines))
        return
    gym.logger.min_level = gym.logger.ERROR  # what it warns of before an error would be a second line
    guarded(lambda: _dispatch(*arguments))


def guarded(job: Callable[[], None]) -> None:
    """Run a job; what a user can mend ends in one line on stderr and exit status 2, Ctrl-C in 130."""
    try:
        job()
    except PolicyKDError as error:
        print(f"policykd: error: {error}", file=sys.stderr)
        sys.exit(2)
    except (OSError, gym.error.Error) as error:  # a full disk, a folder that may not be written, a broken environment
        print(f"policykd: error: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)


def _dispatch(name: str, *arguments: str) -> None:
    if name not in COMMANDS:
        raise PolicyKDError(f"command: {name!r} is unknown{nearest(name, COMMANDS)}; there are {', '.join(COMMANDS)}")
    importlib.import_module(f"policykd.cli.{name}").run(arguments)
