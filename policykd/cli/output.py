"""Output of the commands."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from policykd.core.errors import PolicyKDError
from policykd.core.files import blocking_file

if TYPE_CHECKING:
    from policykd.training.agent import Agent


def say(text: str) -> None:
    """Print and flush, so that output to a file appears at once, too."""
    print(text, flush=True)


def table(agent: Agent, returns: np.ndarray) -> str:
    """One line per learner: mean and standard deviation of its returns ``(K, n_episodes)``."""
    lines = [
        f"  learner {k} (seed {seed}, peer {peer}): return {returns[k].mean():,.1f} +/- {returns[k].std():,.1f}"
        for k, (seed, peer) in enumerate(agent.learners)
    ]
    return "\n".join(lines)


def outcome(agent: Agent) -> str:
    """The last evaluation, one line per learner, with a note if no update has been made yet."""
    steps, untrained = f"{agent.num_timesteps:,} steps", ""
    if not agent.recipe.n_updates:
        untrained = f"\nno learner was trained: {steps} end before the first update (after n_steps or learning_starts)"
    if not agent.evaluations:
        return f"{steps}, not evaluated (n_eval_episodes=0){untrained}"
    return f"last evaluation, after {steps}\n{table(agent, agent.evaluations[-1].returns)}{untrained}"


def check_file(command: str, out: Path, what: str, example: str) -> None:
    """Refuse a path that cannot be a file, before the file's content is computed.

    Args:
        command: name of the command, for the error.
        out: path of the file.
        what: content of the file, for the error.
        example: a valid file name, for the error.

    Raises:
        PolicyKDError: it is a folder or below a file.
    """
    if out.is_dir():
        raise PolicyKDError(f"{command}: {out} is a folder: name the {what}, such as {out / example}")
    if (file := blocking_file(out)) is not None:
        raise PolicyKDError(f"{command}: {out} cannot be made: {file} is a file: choose another --out")


def check_page(command: str, out: Path, begins: str) -> None:
    """Refuse a path that cannot take a command's page, before the page is computed; only such a page may be replaced.

    Raises:
        PolicyKDError: it is a folder or below a file, or another file is there.
    """
    check_file(command, out, "page", f"{command}.html")
    if out.exists():
        with open(out, "rb") as found:
            first = found.read(len(begins))
        if first and first != begins.encode():
            raise PolicyKDError(f"{command}: {out} exists and was not written by this command: choose another --out")


def next_run(name: str) -> Path:
    """The next free folder ``runs/<name>_<number>``, with - for / in the name."""
    name, number = name.replace("/", "-"), 1
    while (folder := Path("runs") / f"{name}_{number}").exists():
        number += 1
    return folder
