"""Ours beside Stable-Baselines3: the same networks, exploration noise, evaluator's episodes and environment steps."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import gymnasium as gym
import numpy as np
from tqdm import tqdm

from policykd.benchmark.sb3_baseline import BaselineResult, random_policy_returns, run_sb3
from policykd.core.errors import PolicyKDError
from policykd.core.files import versions, write_text
from policykd.measure.plots import Curve, learning_curves
from policykd.tasks.spaces import short_id
from policykd.training.dual_student import DualStudent


@dataclass(frozen=True)
class CompareOptions:
    """Train peers and one SB3 agent on the same number of environment steps, and show both."""

    env: str = "HalfCheetah-v5"
    """Task: a registered environment with continuous actions."""
    method: str = "dpd"
    """How the peers learn from one another (a row of the methods table)."""
    backbone: Literal["ddpg", "td3", "sac", "ppo"] = "ddpg"
    """Algorithm on both sides."""
    peers: int = 2
    """Learners in our group; the budget counts all of them."""
    seed: int = 0
    """Seed of both sides."""
    total_timesteps: int = 40_000
    """Environment steps: of all peers together, and of SB3's one agent."""
    preset: str = "quick"
    """Settings by task, the same for both sides."""
    eval_freq: int = 5_000
    """Environment steps between evaluations."""
    n_eval_episodes: int = 5
    """Episodes per evaluation and learner."""
    out: Path = Path("runs/compare")
    """New folder for pictures, tables, raw returns and both runs."""


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    who: str
    steps: np.ndarray
    """Environment steps of the whole side at each evaluation ``(E,)``."""
    returns: np.ndarray
    """Returns ``(E, n)``."""
    steps_per_second: float | None
    wall_seconds: float | None


def compare(options: CompareOptions) -> tuple[DualStudent, str]:
    """Run both sides, write picture, table and raw returns to ``options.out``; returns our agent and the table.

    Raises:
        PolicyKDError: the folder is in use, or an option cannot work.
    """
    out = options.out
    if out.exists() and any(out.iterdir()):
        raise PolicyKDError(f"compare: {out} is not empty: choose another folder with --out")
    if not 1 <= options.eval_freq <= options.total_timesteps:
        raise PolicyKDError(
            f"compare: eval_freq={options.eval_freq} must be from 1 to total_timesteps={options.total_timesteps}"
        )
    if options.n_eval_episodes < 1:
        raise PolicyKDError(f"compare: n_eval_episodes={options.n_eval_episodes} must be positive")
    agent = _train_ours(options)
    sb3 = _train_sb3(options, agent)
    chance = random_policy_returns(options.env, options.n_eval_episodes, options.seed)
    rows = _rows(options, agent, sb3, chance)
    threshold = gym.spec(short_id(agent.env_id)).reward_threshold
    title = f"{options.env}: {options.peers} {options.method.upper()} peers and one SB3 {options.backbone.upper()}"
    learning_curves(
        [Curve(row.who, row.steps, row.returns) for row in rows], out / "learning_curves.png", title=title,
        threshold=threshold if threshold is not None and _near(threshold, rows) else None,
    )  # fmt: skip
    text = table(options, agent, rows)
    write_text(out / "table.md", text)
    write_text(out / "returns.csv", raw_returns(rows, options.seed))
    write_text(out / "versions.json", json.dumps(versions(), indent=2) + "\n")
    return agent, text


def _train_ours(options: CompareOptions) -> DualStudent:
    agent = DualStudent(
        options.env,
        method=options.method,
        backbone=options.backbone,
        peers=options.peers,
        seeds=(options.seed,),
        config=options.preset,
        run_dir=options.out / "policykd",
        overrides={"eval_freq": options.eval_freq, "n_eval_episodes": options.n_eval_episodes},
    )
    print(
        f"policykd: {options.peers} {options.method} peers, {options.total_timesteps:,} steps in all",
        flush=True,
    )
    return agent.learn(options.total_timesteps, progress_bar=True)


def _train_sb3(options: CompareOptions, agent: DualStudent) -> BaselineResult:
    print(f"SB3: one {options.backbone.upper()} agent, {options.total_timesteps:,} steps", flush=True)
    with tqdm(total=options.total_timesteps, unit="step", disable=None) as bar:
        return run_sb3(
            options.backbone,
            options.env,
            agent.config,
            total_timesteps=options.total_timesteps,
            seed=options.seed,
            eval_freq=options.eval_freq,
            n_eval_episodes=options.n_eval_episodes,
            run_dir=options.out / "sb3",
            progress=lambda steps: bar.update(steps - bar.n) and None,
        )


def _rows(options: CompareOptions, agent: DualStudent, sb3: BaselineResult, chance: np.ndarray) -> list[Row]:
    steps = np.array(agent.evaluation_steps)
    returns = np.stack([evaluation.returns for evaluation in agent.evaluations])
    speed = agent.num_timesteps / agent.run.elapsed
    ours = [
        Row(f"{options.method.upper()} peer {k + 1}", steps, returns[:, k], speed, agent.run.elapsed)
        for k in range(options.peers)
    ]
    baseline = Row(
        f"SB3 {options.backbone.upper()}", sb3.timesteps, sb3.returns, sb3.steps_per_second, sb3.wall_seconds
    )
    ends = np.array([steps[0], steps[-1]])
    return [*ours, baseline, Row("random actions", ends, np.stack([chance, chance]), None, None)]


def table(options: CompareOptions, agent: DualStudent, rows: list[Row]) -> str:
    """The outcome as Markdown: last evaluation, speed, and ratios to SB3."""
    reference = next(row for row in rows if row.who.startswith("SB3"))
    assert reference.steps_per_second and reference.wall_seconds
    lines = [
        f"{options.env}, {options.total_timesteps:,} environment steps a side, seed {options.seed}; returns of the",
        f"last evaluation ({options.n_eval_episodes} episodes without noise; mean +/- standard deviation).",
        "One seed shows that it works, not which side is better.",
        "",
        "| | return | ratio to SB3 | environment steps/s | ratio to SB3 | training seconds |",
        "|---|---|---|---|---|---|",
    ]
    for row in rows:
        last = row.returns[-1]
        cells = [
            row.who,
            f"{last.mean():,.0f} +/- {last.std():,.0f}",
            _ratio(last.mean(), reference.returns[-1].mean()),
        ]
        if row.steps_per_second and row.wall_seconds:
            speed = f"{row.steps_per_second:,.0f}" + (" (all peers)" if row.who.split()[1] == "peer" else "")
            cells += [
                speed,
                _ratio(row.steps_per_second, reference.steps_per_second),
                f"{row.wall_seconds:,.0f}",
            ]
        else:
            cells += ["", "", ""]
        lines.append("| " + " | ".join(cells) + " |")
    kept = ("net_arch", "n_steps", "batch_size", "learning_rate", "learning_starts", "action_noise_std", "ent_coef")
    both = ", ".join(f"{name}={value}" for name, value in dataclasses.asdict(agent.config).items() if name in kept)
    lines += ["", f"Both sides: {both}; ours: alpha={agent.config.alpha}"]
    return "\n".join(lines) + "\n"


def raw_returns(rows: list[Row], seed: int) -> str:
    """Every evaluation episode as CSV: who, seed, steps, episode, return."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("who", "seed", "steps", "episode", "return"))
    for row in rows:
        for steps, returns in zip(row.steps, row.returns, strict=True):
            writer.writerows((row.who, seed, int(steps), e, float(value)) for e, value in enumerate(returns))
    return text.getvalue()


def _ratio(value: float, reference: float) -> str:
    """A ratio, where one of returns means something."""
    return f"{value / reference:.2f}" if value > 0 and reference > 0 else "-"


def _near(threshold: float, rows: list[Row]) -> bool:
    """Whether a threshold line would leave the curves readable."""
    best = max(row.returns.mean(1).max() for row in rows)
    worst = min(row.returns.mean(1).min() for row in rows)
    return threshold <= best + 0.5 * (best - worst)
