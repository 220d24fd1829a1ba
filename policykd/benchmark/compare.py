"""Compares peers with Stable-Baselines3 on one task: a benchmark of two methods, with a table and a figure."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import gymnasium as gym
import yaml

from policykd.benchmark import local
from policykd.benchmark.budgets import steps_at_once
from policykd.benchmark.matrix import run_matrix
from policykd.benchmark.options import CompareOptions as CompareOptions
from policykd.benchmark.options import MatrixOptions
from policykd.benchmark.random_actions import measured_reference
from policykd.benchmark.results import Results
from policykd.benchmark.spec import OWN, Cell, Spec
from policykd.benchmark.spec_file import parse_spec
from policykd.benchmark.statistics import Scores, read_scores
from policykd.core.errors import PolicyKDError
from policykd.core.fields import require
from policykd.core.files import write_text
from policykd.core.registry import find
from policykd.distillation.methods import PEER_METHODS, PeerMethod
from policykd.learners.presets import preset
from policykd.measure.plots import comparison_grid
from policykd.tasks.spaces import check_spaces, find_task, short_id
from policykd.training.dual_student import resolve_config

SB3 = "sb3"
WAYS = {
    "trained": "the best peer in training",
    "group": "all peers as one, mean action",
    "greedy": "all peers as one, by their critics",
    "student": "one student of all peers",
}
"""Labels of the ways to form one policy from a group (``Row.phase``)."""


def compare(options: CompareOptions) -> tuple[Spec, str]:
    """Run what is missing on both sides, then write the figure and the table to ``options.out``.

    Returns:
        The benchmark, with our method first, and the table.

    Raises:
        PolicyKDError: the folder holds another comparison, an option is invalid, or a side failed.
    """
    local.check_jobs(options.jobs)
    out, file = options.out, options.out / "spec.yaml"
    in_use = f"compare: {out} is not empty: choose another folder with --out"
    if out.exists() and any(out.iterdir()) and not file.is_file():
        raise PolicyKDError(in_use)
    content = _content(options)
    parse_spec(yaml.safe_dump(content))  # refuses invalid options
    content["tasks"][options.env]["reference"] = measured_reference(options.env, options.final_episodes, options.seed)
    text = yaml.safe_dump(content, sort_keys=False)
    if file.is_file() and file.read_text(encoding="utf-8") != text:
        raise PolicyKDError(in_use)
    out.mkdir(parents=True, exist_ok=True)
    write_text(file, text)
    spec = parse_spec(text)
    places = MatrixOptions(out=str(out / "results"), work=out / "runs", jobs=options.jobs, env=(options.env,))
    results = Results(out / "results")
    if failed := run_matrix(file, places):
        why = results.failures()[failed[0]].partition("\n")[0]
        raise PolicyKDError(f"compare: {failed[0]} failed: {why} (more in {out / 'results'})")
    scores = [(cell, read_scores(cell, results.rows(cell))) for cell in spec.cells]
    table = _table(options, spec, scores)
    write_text(out / "table.md", table)
    _draw(options, scores, out / "learning_curves.png")
    return spec, table


def _content(options: CompareOptions) -> dict[str, Any]:
    """Content of the benchmark's file, with a placeholder for the reference to measure."""
    find("method", options.method, PEER_METHODS, PeerMethod)
    with find_task(options.env).make() as env:
        actions = check_spaces(env)[1]
    if isinstance(actions, gym.spaces.Discrete) and options.backbone != "ppo":
        raise PolicyKDError(f"backbone: {options.backbone} has continuous actions only; for discrete actions use ppo")
    for asked in ("updates", "random_steps"):
        fits = options.backbone != "ppo" or getattr(options, asked) is None
        require(fits, asked, getattr(options, asked), "needs a backbone with a replay: leave it out for ppo")
    name = short_id(options.env)
    settings = {k: v for k, v in preset(options.preset, name, options.backbone).items() if k not in OWN}
    ours, budget = _ours(options), {}
    if options.random_steps is not None:
        budget = {"random_steps": options.random_steps}
        settings.pop("learning_starts", None)
    if options.updates is not None:  # SB3 keeps its default, which the presets have too
        settings.pop("gradient_steps", None)
    at_once, rollout = steps_at_once(resolve_config(settings, options.backbone, name), options.peers)
    whole = math.lcm(rollout, at_once * options.evaluations) or 1
    return {
        "name": "compare",
        "total_timesteps": -(-options.total_timesteps // whole) * whole,
        "seeds": options.seeds,
        "first_seed": options.seed,
        "evaluations": options.evaluations,
        "n_eval_episodes": options.n_eval_episodes,
        "final_episodes": options.final_episodes,
        "peers": options.peers,
        **budget,
        "settings": {k: list(v) if isinstance(v, tuple) else v for k, v in settings.items()},
        "tasks": {options.env: {"backbones": [options.backbone], "reference": {"low": 0, "high": 1, "source": ""}}},
        "methods": {options.method: ours, SB3: {}},
    }


def _ours(options: CompareOptions) -> dict[str, Any]:
    """Settings of our method only."""
    ours: dict[str, Any] = {} if options.updates is None else {"utd": options.updates}
    if options.learning_rates:
        require(
            len(options.learning_rates) == options.peers,
            *("learning_rates", options.learning_rates, f"must be one per peer, for {options.peers} peers"),
        )
        ours["settings"] = {"allocation": "best", "vary": {"learning_rate": list(options.learning_rates)}}
    return ours


def _table(options: CompareOptions, spec: Spec, scores: list[tuple[Cell, Scores]]) -> str:
    """Markdown table of the final returns."""
    low = next(iter(spec.tasks.values())).reference.low
    (ours, group), (_, agent) = scores
    ways = [(WAYS[way], returns, group.seconds_as_one[way]) for way, returns in group.as_one.items()]
    rows = [(f"{options.method}: {way}", returns, group.updates, seconds) for way, returns, seconds in ways]
    mean = f"{options.method}: mean of {ours.peers} peers" if ours.peers > 1 else options.method
    sides = (mean, group), (f"SB3 {options.backbone.upper()}", agent)
    rows += [(who, side.by("mean"), side.updates, side.seconds) for who, side in sides]
    seeds = f"seed {options.seed}" if options.seeds == 1 else f"{options.seeds} seeds from {options.seed} on"
    lines = [
        f"{options.env}, {spec.total_timesteps:,} environment steps a side, {seeds}. Returns of the final evaluation:",
        f"{options.final_episodes} episodes without noise from new initial states, mean over seeds (and standard",
        "deviation). Evaluations do not select anything. One seed shows that it works, not which side is better.",
        *(["The student's seconds hold those of distilling it; updates count RL alone."] if group.as_one else []),
        "",
        "| | return | gradient updates | seconds of training |",
        "|---|---|---|---|",
    ]
    for who, returns, updates, seconds in rows:
        spread = f" ({returns.std(ddof=1):,.0f})" if options.seeds > 1 else ""
        lines.append(f"| {who} | {returns.mean():,.0f}{spread} | {updates:,} | {seconds:,.0f} |")
    return "\n".join([*lines, f"| random actions | {low:,.0f} | | |"]) + "\n"


def _draw(options: CompareOptions, scores: list[tuple[Cell, Scores]], path: Path) -> None:
    (cell, ours), (_, sb3) = scores
    rates = [f", {rate:g}" for rate in options.learning_rates] or [""] * cell.peers
    sides = {f"{options.method}, peer {k + 1}{rates[k]}": (ours.steps, ours.curve[:, k].T) for k in range(cell.peers)}
    sides[f"SB3 {options.backbone.upper()}"] = (sb3.steps, sb3.curve[:, 0].T)
    settings = "equal settings" if not options.learning_rates else "a learning rate each"
    comparison_grid([(options.env, sides)], path, title=f"{options.method} peers and SB3, {settings}", columns=1)
