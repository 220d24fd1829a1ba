"""One cell, from its beginning or from where it was stopped: train, evaluate on fresh starts, say how it was made."""

from __future__ import annotations

import csv
import json
import math
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from stable_baselines3.common.callbacks import BaseCallback

from policykd.agents import snapshot
from policykd.agents.dual_student import DualStudent
from policykd.agents.run_folder import CHECKPOINT, STEPS, versions
from policykd.benchmark.spec import Cell
from policykd.config import Config, OffPolicyConfig, PPOConfig
from policykd.distillation.methods import METHODS
from policykd.errors import PolicyKDError
from policykd.evaluation import Evaluation, Evaluator

Report = Callable[[int], None]
"""Called now and then with the steps of the cell so far."""

REPORT_SECONDS = 1.0
AGENT = "agent.safetensors"
"""The trained learners without their replay, which is all that remains of a finished cell's checkpoint."""


@dataclass(frozen=True)
class Row:
    """One evaluation of one learner: a line of the raw results."""

    backbone: str
    phase: str
    """``curve``: on the way. ``final``: after it, on starts that no other evaluation had."""
    seed: int
    learner: int
    """Number of the learner in its group, from 0."""
    steps: int
    """Environment steps so far of all learners of the group."""
    updates: int
    """Gradient updates so far of all learners of the group."""
    episodes: int
    mean: float
    """Mean undiscounted return of the episodes, played without noise."""
    std: float
    """Their standard deviation."""
    seconds: float
    """Seconds of training so far of the process: all seeds of ours at once, one seed of SB3's."""


@dataclass(frozen=True)
class CellResult:
    """What a cell leaves."""

    rows: list[Row]
    provenance: dict[str, Any]
    """How it was made: the cell, versions, commit, machine, networks, seconds."""


def run_cell(cell: Cell, folder: Path, report: Report) -> CellResult:
    """Train a cell, or go on with it, and evaluate it.

    Args:
        cell: what to compute.
        folder: the cell's own folder for logs and checkpoints; what an earlier attempt left there is used.
        report: told the steps so far about once a second.

    Raises:
        PolicyKDError: settings, the task or a file cannot work.
    """
    if cell.by_sb3:
        from policykd.benchmark.sb3_cell import train_sb3_seeds

        rows, details = train_sb3_seeds(cell, folder, report)
    else:
        rows, details = _train_ours(cell, folder / "run", report)
    provenance = {"cell": cell.plain(), **details, **versions()}
    return CellResult(rows, provenance)


def _train_ours(cell: Cell, run_dir: Path, report: Report) -> tuple[list[Row], dict[str, Any]]:
    agent = _begin_or_resume(cell, run_dir)
    agent.learn(cell.total_timesteps - agent.num_timesteps, callback=Throttled(report))
    assert agent.update is not None and agent.folder is not None
    seconds = _seconds(run_dir)
    evaluated = list(zip(agent.evaluation_steps, agent.evaluations, strict=True))
    rows = [r for steps, e in evaluated for r in _rows(cell, "curve", steps, e, seconds.get(steps, agent.elapsed))]
    evaluator = Evaluator(agent.factory, agent.n_learners, agent.action_scale.to_env)
    seeds = [seed for seed, _ in agent.learners]
    final = evaluator.run(agent.policies, cell.final_episodes, seeds, fresh(cell))
    evaluator.close()
    rows += _rows(cell, "final", cell.total_timesteps, final, agent.elapsed)
    _check_updates(cell, agent)
    agent.save(run_dir / AGENT)
    details = {
        "net_arch": list(cell.settings.net_arch),
        "learners_at_once": agent.n_learners,
        "computed_by": agent.computed_by,
        "seconds": round(agent.elapsed, 1),
    }
    return rows, details


def tidy(folder: Path) -> None:
    """Drop what only served to go on: a finished cell's replay can take hundreds of megabytes."""
    (folder / "run" / CHECKPOINT).unlink(missing_ok=True)


def _begin_or_resume(cell: Cell, run_dir: Path) -> DualStudent:
    method = "independent" if cell.base == "single" else cell.base
    assert method in METHODS
    asked = {"method": method, "backbone": cell.backbone, "peers": cell.peers, "seeds": list(cell.seeds)}
    if (run_dir / CHECKPOINT).exists():
        agent = DualStudent.load(run_dir, device="cpu")
        snapshot.check_same(agent, {**asked, "config": snapshot.plain(cell.settings)})
        return agent
    if run_dir.exists():  # killed before its first checkpoint: there is nothing to go on from
        shutil.rmtree(run_dir)
    # Not compiled: the same arithmetic for every cell, whatever its length and the machine's compiler.
    return DualStudent(cell.task, **asked, config=cell.settings, device="cpu", compile=False, run_dir=run_dir)  # type: ignore[arg-type]


def fresh(cell: Cell) -> int:
    """The number of the final evaluation: that of no evaluation on the way, so that its starts are new."""
    return cell.total_timesteps + 1


def _rows(cell: Cell, phase: str, steps: int, evaluation: Evaluation, seconds: float) -> Iterator[Row]:
    """A row per learner of an evaluation ``(K, n)``."""
    learners = [(seed, peer) for seed in cell.seeds for peer in range(cell.peers)]
    updates = cell.peers * gradient_updates(cell.settings, steps // cell.peers)
    for (seed, peer), returns in zip(learners, evaluation.returns, strict=True):
        yield row(cell, phase, (seed, peer), steps, updates, returns, seconds)


def row(
    cell: Cell, phase: str, who: tuple[int, int], steps: int, updates: int, returns: np.ndarray, seconds: float
) -> Row:
    """The row of one learner, (seed, number), from its returns ``(n,)``."""
    mean, std = float(returns.mean()), float(returns.std())
    return Row(cell.backbone, phase, *who, steps, updates, len(returns), mean, std, round(seconds, 1))


def gradient_updates(config: Config, steps: int) -> int:
    """Gradient updates of one learner in its first ``steps`` own environment steps."""
    if isinstance(config, PPOConfig):
        rollout = config.n_steps * config.n_envs
        return steps // rollout * config.n_epochs * math.ceil(rollout / config.batch_size)
    assert isinstance(config, OffPolicyConfig)
    due = steps // config.train_freq - min(steps, config.learning_starts) // config.train_freq
    return due * config.gradient_steps


def _check_updates(cell: Cell, agent: DualStudent) -> None:
    """The table's gradient updates are computed; refuse to report them where they are not what was done."""
    assert agent.update is not None
    done, config = agent.update.n_updates, cell.settings
    if isinstance(config, PPOConfig):  # counts epochs
        done *= math.ceil(config.n_steps * config.n_envs / config.batch_size)
    said = gradient_updates(config, cell.total_timesteps // cell.peers)
    if done != said:
        raise PolicyKDError(f"benchmark: {cell.name} made {done} gradient updates per learner, not {said}")


def _seconds(run_dir: Path) -> dict[int, float]:
    """Seconds of training at every row of a run's log, by steps."""
    with open(run_dir / "progress.csv", newline="") as file:
        rows = [line for line in csv.DictReader(file) if line.get("time/time_elapsed")]
    return {int(line[STEPS]): float(line["time/time_elapsed"]) for line in rows}


class Throttled(BaseCallback):
    """Reports the steps so far about once a second."""

    def __init__(self, report: Report, before: int = 0) -> None:
        super().__init__()
        self._report, self._before, self._last = report, before, 0.0

    def _on_step(self) -> bool:
        now = time.monotonic()
        if now - self._last >= REPORT_SECONDS:
            self._last = now
            self._report(self._before + self.model.num_timesteps)
        return True


def to_json(result: CellResult) -> str:
    """A result as text, every float exact."""
    return json.dumps({"rows": [list(vars(r).values()) for r in result.rows], "provenance": result.provenance})


def from_json(text: str) -> CellResult:
    """What ``to_json`` gave.

    Raises:
        ValueError: the text is something else, or cut short.
    """
    content = json.loads(text)
    return CellResult([Row(*values) for values in content["rows"]], content["provenance"])
