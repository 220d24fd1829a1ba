"""``policykd ship``: distil every group of peers into one small policy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import tyro

from policykd.cli.options import parse
from policykd.cli.output import say
from policykd.core.errors import PolicyKDError, plural
from policykd.core.fields import require
from policykd.core.files import checkpoint_path
from policykd.training.learner_choice import Rule


@dataclass(frozen=True)
class ShipOptions:
    """Distil every group of a run into one student on the states of its replay, without environment steps."""

    path: tyro.conf.Positional[Path]
    """A run folder, or an agent saved with its replay."""
    env: str | None = None
    """Its task, if registered by your own module, which is imported: my_tasks:Task-v0."""
    out: Path = Path("shipped.safetensors")
    """File for the students, an agent that evaluate, export and video can read. It must not exist yet."""
    net_arch: tuple[int, ...] = ()
    """Hidden layers of the students. Default: the peers'."""
    rule: Rule = "mean"
    """Target actions of a group: the mean over its peers; greedy: the one its critics value most; best: those of the
    peer with the highest return in its latest training episodes."""
    gradient_steps: int = 5_000
    """Steps of Adam."""
    dagger_steps: int = 0
    """Environment steps of each student in which its group labels the states it visits."""
    n_eval_episodes: int = 20
    """Evaluation episodes of every group and student, from the same initial states."""
    seed: int = 1_000_000
    """Seed of the episodes' initial states, the same for all."""


def run(arguments: Sequence[str]) -> None:
    """``policykd ship``."""
    options = parse(ShipOptions, arguments, "ship")
    for name in ("gradient_steps", "n_eval_episodes"):
        require(getattr(options, name) > 0, name, getattr(options, name), "must be positive")
    for name in ("dagger_steps", "seed"):
        require(getattr(options, name) >= 0, name, getattr(options, name), "must not be negative")
    from policykd.export.equivalence import require_free  # imports torch
    from policykd.training.dual_student import DualStudent
    from policykd.training.loading import load_agent

    out = checkpoint_path(options.out)
    require_free(out, "ship")
    agent = load_agent(options.path, options.env)
    if not isinstance(agent, DualStudent):
        raise PolicyKDError(f"ship: {options.path} holds students of a teacher, one policy each: use policykd export")
    asked = {"gradient_steps": options.gradient_steps, "dagger_steps": options.dagger_steps}
    student = agent.ship(net_arch=options.net_arch or None, rule=options.rule, **asked)
    student.save(out)
    groups = agent.evaluate_group(options.n_eval_episodes, options.seed, options.rule)
    students = student.evaluate(options.n_eval_episodes, options.seed)
    say(f"{agent.env_id}, {plural(options.n_eval_episodes, 'episode')} without noise, seed {options.seed}")
    for g, seed in enumerate(agent.seeds):
        says = [f"{e.returns[g].mean():,.1f} +/- {e.returns[g].std():,.1f}" for e in (groups, students)]
        say(f"  group {g} (seed {seed}): its {agent.peers} peers, {options.rule} action {says[0]}; student {says[1]}")
    say(f"agent {out}")
