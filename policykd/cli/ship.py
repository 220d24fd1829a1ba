"""``policykd ship``: one small policy out of every group of peers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import tyro

from policykd.cli.options import parse
from policykd.cli.output import say
from policykd.core.errors import PolicyKDError, counted
from policykd.core.fields import require
from policykd.core.files import checkpoint_path
from policykd.training.learner_choice import Rule


@dataclass(frozen=True)
class ShipOptions:
    """Distil every group of a run into one student, at the states of its replay and so without an environment step."""

    path: tyro.conf.Positional[Path]
    """A run folder, or an agent that was saved with its replay."""
    env: str | None = None
    """Its task, where that is of a module of your own, such as my_tasks:Task-v0, which is imported."""
    out: Path = Path("shipped.safetensors")
    """The file of the students, an agent like any other: evaluate, export and video read it. It must be new."""
    net_arch: tuple[int, ...] = ()
    """Hidden layers of the students. Default: those of the peers."""
    rule: Rule = "mean"
    """What of a group is copied: the mean of its actions; (greedy) the one that its critics value most; or (best) those
    of the peer whose latest training episodes returned most."""
    gradient_steps: int = 5_000
    """Steps of Adam."""
    dagger_steps: int = 0
    """Environment steps of each student in which it asks its group what to do."""
    n_eval_episodes: int = 20
    """Episodes of every group and student, from the same starts."""
    seed: int = 1_000_000
    """Seed of the episodes' initial states, the same for all."""


def run(arguments: Sequence[str]) -> None:
    """``policykd ship``."""
    options = parse(ShipOptions, arguments, "ship")
    for name in ("gradient_steps", "n_eval_episodes"):
        require(getattr(options, name) > 0, name, getattr(options, name), "must be positive")
    for name in ("dagger_steps", "seed"):
        require(getattr(options, name) >= 0, name, getattr(options, name), "must not be negative")
    from policykd.export.proof import require_free  # brings torch
    from policykd.training.dual_student import DualStudent
    from policykd.training.loading import load_agent

    out = checkpoint_path(options.out)
    require_free(out, "ship")
    agent = load_agent(options.path, options.env)
    if not isinstance(agent, DualStudent):
        raise PolicyKDError(f"ship: {options.path} holds students of a teacher, one policy each: policykd export")
    asked = {"gradient_steps": options.gradient_steps, "dagger_steps": options.dagger_steps}
    student = agent.ship(net_arch=options.net_arch or None, rule=options.rule, **asked)
    student.save(out)
    groups = agent.evaluate_group(options.n_eval_episodes, options.seed, options.rule)
    students = student.evaluate(options.n_eval_episodes, options.seed)
    say(f"{agent.env_id}, {counted(options.n_eval_episodes, 'episode')} without noise, seed {options.seed}")
    for g, seed in enumerate(agent.seeds):
        says = [f"{e.returns[g].mean():,.1f} +/- {e.returns[g].std():,.1f}" for e in (groups, students)]
        say(f"  group {g} (seed {seed}): its {agent.peers} peers, {options.rule} action {says[0]}; student {says[1]}")
    say(f"agent {out}")
