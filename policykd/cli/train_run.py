"""Runs ``policykd train`` with parsed options."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

from policykd.cli.output import next_run, outcome, say
from policykd.cli.train import TrainOptions
from policykd.core.errors import plural
from policykd.core.fields import require
from policykd.measure.plots import curve_of, learning_curves
from policykd.tasks.spaces import find_task, short_id
from policykd.training import snapshot
from policykd.training.dual_student import DualStudent
from policykd.training.resume import resuming


def run(options: TrainOptions[Any]) -> None:
    """Start or resume a run, and train it to the end."""
    require(options.total_timesteps > 0, "total_timesteps", options.total_timesteps, "must be positive")
    say(f"policykd train: {options.method} on {options.backbone}, {options.env}")
    asked: dict[str, Any] = {
        "env": find_task(options.env).env_id,
        "method": options.method,
        "backbone": options.backbone,
        "peers": options.peers,
    }
    settings = {**asked, "seeds": list(options.seeds), "config": snapshot.plain(options.config)}
    with resuming(options.run_dir, settings) if options.resume else nullcontext() as saved:
        if saved:
            agent = DualStudent.load(saved, device=options.device)
            snapshot.check_same(agent.settings, settings)
            agent.threads = options.threads
            say(f"resuming from {agent.num_timesteps:,} steps")
        else:
            agent = _begin(options, asked)
        _train(agent, options.total_timesteps)


def _begin(options: TrainOptions[Any], asked: dict[str, Any]) -> DualStudent:
    return DualStudent(
        **asked,
        seeds=options.seeds,
        config=options.config,
        device=options.device,
        compile="auto" if options.compile == "auto" else options.compile == "yes",
        threads=options.threads,
        run_dir=options.run_dir or next_run(f"{short_id(options.env)}_{options.method}-{options.backbone}"),
    )


def _train(agent: DualStudent, total_timesteps: int) -> None:
    """Train to the end, then print and plot the results."""
    assert agent.folder is not None
    folder = agent.folder.path
    groups = plural(len(agent.seeds), "group")
    say(
        f"{plural(agent.n_learners, 'learner')} ({groups} of {agent.peers}) on {agent.device}; "
        f"{agent.memory}; computed by {agent.computed_by}"
    )
    say(f"run folder {folder}   (live: tensorboard --logdir {folder})")
    agent.learn(max(0, total_timesteps - agent.num_timesteps), progress_bar=True)
    say(outcome(agent))
    if not agent.evaluations:
        return
    done = agent.evaluation_steps, agent.evaluations
    curves = [curve_of(f"seed {seed}, peer {peer}", k, *done) for k, (seed, peer) in enumerate(agent.learners)]
    picture = learning_curves(curves, folder / "learning_curves.png", title=f"{agent.env_id}: {agent.method_name}")
    say(f"picture {picture}")
