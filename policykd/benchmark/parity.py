"""Is each backbone what its name says? Our learners by themselves against SB3's, seed by seed, at equal settings."""

from __future__ import annotations

import csv
import json
import shutil
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from policykd.benchmark.bootstrap import iqm_difference
from policykd.benchmark.documents import publish
from policykd.benchmark.sb3_baseline import run_sb3
from policykd.core.errors import PolicyKDError
from policykd.core.fields import require
from policykd.core.files import versions, write_text
from policykd.measure.plots import comparison_grid
from policykd.training.dual_student import DualStudent, resolve_config

Scores = np.ndarray
"""Mean return of each evaluation and seed, ``(E, S)``."""

OURS, SB3 = "policykd", "SB3"
SMALL = {"net_arch": (64, 64), "batch_size": 64}
PENDULUM = {**SMALL, "learning_starts": 500, "gamma": 0.98}
DOUBLE = {**SMALL, "learning_starts": 1_000}
CHEETAH = {**SMALL, "learning_starts": 5_000}
NORMALISED = {"normalize_observation": True, "normalize_reward": True}


@dataclass(frozen=True)
class Case:
    """One comparison: a task, a backbone, a budget, and the settings that both sides get."""

    env: str
    backbone: str
    total_timesteps: int
    settings: dict[str, Any]

    @property
    def name(self) -> str:
        """The name of its file."""
        return f"{self.env}_{self.backbone}"


CASES = (
    Case("Pendulum-v1", "ddpg", 10_000, PENDULUM),
    Case("Pendulum-v1", "td3", 10_000, PENDULUM),
    Case("Pendulum-v1", "sac", 10_000, {**PENDULUM, "learning_rate": 1e-3}),
    Case(
        "Pendulum-v1",
        "ppo",
        80_000,
        {"n_envs": 4, "n_steps": 1024, "gamma": 0.9, "learning_rate": 1e-3},
    ),
    Case("InvertedDoublePendulum-v5", "ddpg", 20_000, DOUBLE),
    Case("InvertedDoublePendulum-v5", "td3", 20_000, DOUBLE),
    Case("InvertedDoublePendulum-v5", "sac", 20_000, {**DOUBLE, "learning_rate": 1e-3}),
    Case("InvertedDoublePendulum-v5", "ppo", 100_000, {"n_steps": 1024, **NORMALISED}),
    Case("HalfCheetah-v5", "td3", 50_000, CHEETAH),
    Case("HalfCheetah-v5", "sac", 50_000, {**CHEETAH, "learning_rate": 1e-3}),
    Case("HalfCheetah-v5", "ppo", 100_000, {"n_steps": 1024, **NORMALISED}),
)
"""Settings were chosen before any of these seeds was run, from SB3's defaults and its zoo, with small networks so that
two cores can do it. They are equal on both sides."""


@dataclass(frozen=True)
class ParityOptions:
    """Train our learners alone and SB3's at equal settings on several tasks, and compare what they reach."""

    out: Path = Path("results/parity")
    """Folder of the raw returns, the table and the picture; finished runs in it are kept and skipped."""
    cases: tuple[str, ...] = ()
    """Only these, e.g. Pendulum-v1_td3. Default: all."""
    seeds: int = 10
    """Our seeds, all in one batch."""
    sb3_seeds: int = 5
    """SB3's seeds, one after the other."""
    evaluations: int = 10
    """Evaluations over the run."""
    n_eval_episodes: int = 10
    """Episodes per evaluation, without noise."""
    report: Path = Path("docs/parity.md")
    """The document whose table is written between its markers."""
    only: Literal["all", "ours", "sb3", "report"] = "all"
    """What to run: both sides, one of them, or neither (table and picture only)."""


def parity(options: ParityOptions) -> str:
    """Run what is missing, then write table and picture; returns the table.

    Raises:
        PolicyKDError: a case is unknown.
    """
    known = {case.name: case for case in CASES}
    for name in options.cases:
        if name not in known:
            raise PolicyKDError(f"parity: no case {name!r}; there are {', '.join(known)}")
    cases = [known[name] for name in options.cases] or list(CASES)
    for name in ("seeds", "sb3_seeds", "evaluations", "n_eval_episodes"):
        require(getattr(options, name) >= 1, name, getattr(options, name), "must be positive")
    options.out.mkdir(parents=True, exist_ok=True)
    for case in cases:
        done = {(row["who"], int(row["seed"])) for row in read(options.out, case)}
        missing = [seed for seed in range(options.seeds) if (OURS, seed) not in done]
        if missing and options.only in ("all", "ours"):
            print(f"{case.name}: policykd, {len(missing)} seeds in one batch", flush=True)
            _append(options.out, case, _ours(case, missing, options))
        for seed in range(options.sb3_seeds):
            if (SB3, seed) not in done and options.only in ("all", "sb3"):
                print(f"{case.name}: SB3, seed {seed}", flush=True)
                _append(options.out, case, _sb3(case, seed, options))
    return write_report(options)


def _ours(case: Case, seeds: list[int], options: ParityOptions) -> Iterable[tuple[Any, ...]]:
    changes = {
        **case.settings,
        "eval_freq": case.total_timesteps // options.evaluations,
        "n_eval_episodes": options.n_eval_episodes,
        "checkpoint_freq": 0,
    }
    agent = DualStudent(
        case.env, method="independent", backbone=case.backbone, peers=1, seeds=seeds, config=changes, device="cpu"
    )
    agent.learn(case.total_timesteps, progress_bar=True)
    for steps, evaluation in zip(agent.evaluation_steps, agent.evaluations, strict=True):
        for seed, returns in zip(seeds, evaluation.returns, strict=True):
            yield from ((OURS, seed, steps, episode, value) for episode, value in enumerate(returns))


def _sb3(case: Case, seed: int, options: ParityOptions) -> Iterable[tuple[Any, ...]]:
    folder = Path(tempfile.mkdtemp(prefix="parity-"))
    try:
        result = run_sb3(
            case.backbone,
            case.env,
            resolve_config(case.settings, case.backbone, case.env),
            total_timesteps=case.total_timesteps,
            seed=seed,
            eval_freq=case.total_timesteps // options.evaluations,
            n_eval_episodes=options.n_eval_episodes,
            run_dir=folder,
        )
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    for steps, returns in zip(result.timesteps, result.returns, strict=True):
        yield from ((SB3, seed, int(steps), episode, value) for episode, value in enumerate(returns))


def _append(out: Path, case: Case, rows: Iterable[tuple[Any, ...]]) -> None:
    """Add the rows of a finished run to the case's file, and say with what they were made."""
    lines = list(rows)
    path = out / f"{case.name}.csv"
    new = not path.exists()
    with open(path, "a", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        if new:
            writer.writerow(("who", "seed", "steps", "episode", "return"))
        writer.writerows((who, seed, steps, episode, f"{value:.6g}") for who, seed, steps, episode, value in lines)
    write_text(out / "versions.json", json.dumps(versions(), indent=2) + "\n")


def read(out: Path, case: Case) -> list[dict[str, str]]:
    """The raw rows of a case, none if it has not been run."""
    path = out / f"{case.name}.csv"
    if not path.exists():
        return []
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def scores(rows: list[dict[str, str]], who: str) -> tuple[np.ndarray, Scores]:
    """Steps ``(E,)`` of the evaluations of one side and the mean return of each and seed ``(E, S)``."""
    mine = [row for row in rows if row["who"] == who]
    steps = sorted({int(row["steps"]) for row in mine})
    seeds = sorted({int(row["seed"]) for row in mine})
    sums, counts = np.zeros((len(steps), len(seeds))), np.zeros((len(steps), len(seeds)))
    for row in mine:
        place = steps.index(int(row["steps"])), seeds.index(int(row["seed"]))
        sums[place] += float(row["return"])
        counts[place] += 1
    return np.array(steps), sums / counts


def write_report(options: ParityOptions) -> str:
    """Table and picture of everything in ``options.out``; the table also goes into the report between its markers."""
    lines = [
        "| task | backbone | steps | policykd IQM (seeds) | SB3 IQM (seeds) | difference | 95 % interval | |",
        "|---|---|---|---|---|---|---|---|",
    ]
    panels = []
    for case in CASES:
        rows = read(options.out, case)
        if not ({OURS, SB3} <= {row["who"] for row in rows}):
            continue
        (steps, ours), (_, sb3) = scores(rows, OURS), scores(rows, SB3)
        iqm_ours, iqm_sb3, difference, low, high = iqm_difference(ours[-1], sb3[-1])
        verdict = "equal" if low <= 0 <= high else ("ours better" if low > 0 else "**ours worse**")
        lines.append(
            f"| {case.env} | {case.backbone.upper()} | {case.total_timesteps:,} | {iqm_ours:,.0f} ({ours.shape[1]}) "
            f"| {iqm_sb3:,.0f} ({sb3.shape[1]}) | {difference:+,.0f} | {low:+,.0f} to {high:+,.0f} | {verdict} |"
        )
        panels.append((f"{case.env}, {case.backbone.upper()}", {OURS: (steps, ours), SB3: (steps[: len(sb3)], sb3)}))
    table = "\n".join(lines) + "\n"
    if panels:
        comparison_grid(panels, options.out / "learning_curves.png", title="Learners alone against SB3, equal settings")
        write_text(options.out / "table.md", table)
        publish(table, options.report, "parity table")
    return table
