"""``policykd evaluate``: evaluate the learners of a run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import tyro

from policykd.cli.options import parse
from policykd.cli.output import say, table
from policykd.core.errors import plural


@dataclass(frozen=True)
class EvaluateOptions:
    """Evaluate the learners of a run or checkpoint on separate episodes."""

    path: tyro.conf.Positional[Path]
    """A run folder or a saved agent."""
    env: str | None = None
    """Its task, if registered by your own module, which is imported: my_tasks:Task-v0."""
    n_eval_episodes: int = 20
    """Episodes per learner."""
    seed: int = 1_000_000
    """Seed of the episodes' initial states, the same for every learner."""


def run(arguments: Sequence[str]) -> None:
    """``policykd evaluate``."""
    options = parse(EvaluateOptions, arguments, "evaluate")
    from policykd.training.loading import load_agent  # imports torch

    agent = load_agent(options.path, options.env)
    result = agent.evaluate(options.n_eval_episodes, seed=options.seed)
    say(f"{agent.env_id}, {plural(options.n_eval_episodes, 'episode')} without noise, seed {options.seed}")
    say(table(agent, result.returns))
    agent.check_finite("evaluate")
