"""What the commands print."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from policykd.core.errors import PolicyKDError
from policykd.core.files import file_above

if TYPE_CHECKING:
    from policykd.training.agent import Agent


def say(text: str) -> None:
    """Print at once, also where the output is a file."""
    print(text, flush=True)


def table(agent: Agent, returns: np.ndarray) -> str:
    """A line per learner: mean and standard deviation of its returns ``(K, n_episodes)``."""
    lines = [
        f"  learner {k} (seed {seed}, peer {peer}): return {returns[k].mean():,.1f} +/- {returns[k].std():,.1f}"
        for k, (seed, peer) in enumerate(agent.learners)
    ]
    return "\n".join(lines)


def outcome(agent: Agent) -> str:
    """The last evaluation, a line per learner, and whether nothing was learnt before it."""
    steps, untrained = f"{agent.num_timesteps:,} steps", ""
    if not agent.recipe.n_updates:
        untrained = f"\nno learner has learnt: {steps} end before the first update (after n_steps or learning_starts)"
    if not agent.evaluations:
        return f"{steps}, not evaluated (n_eval_episodes=0){untrained}"
    return f"last evaluation, after {steps}\n{table(agent, agent.evaluations[-1].returns)}{untrained}"


def check_file(command: str, out: Path, what: str, example: str) -> None:
    """Refuse a place where no file can be, before it is made.

    Args:
        command: who asks.
        out: where the file would be.
        what: it would hold.
        example: a name for it.

    Raises:
        PolicyKDError: it is a folder or below a file.
    """
    if out.is_dir():
        raise PolicyKDError(f"{command}: {out} is a folder: name the {what}, such as {out / example}")
    if (file := file_above(out)) is not None:
        raise PolicyKDError(f"{command}: {out} cannot be made: {file} is a file: choose another --out")


def check_page(command: str, out: Path, begins: str) -> None:
    """Refuse a place where the page of a command cannot be, before it is made; it replaces nothing but such a page.

    Raises:
        PolicyKDError: it is a folder or below a file, or another file is there.
    """
    check_file(command, out, "page", f"{command}.html")
    if out.exists():
        with open(out, "rb") as found:
            first = found.read(len(begins))
        if first and first != begins.encode():
            raise PolicyKDError(f"{command}: {out} exists and is no page of this command: choose another --out")


def next_run(name: str) -> Path:
    """The next free folder ``runs/<name>_<number>``, with - for / in the name."""
    name, number = name.replace("/", "-"), 1
    while (folder := Path("runs") / f"{name}_{number}").exists():
        number += 1
    return folder
