"""What the commands print."""

from __future__ import annotations

import numpy as np

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
