"""Runs a cell of our learners: all seeds at once, resumed from the run's checkpoint."""

from __future__ import annotations

import csv
import math
import shutil
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

from policykd.benchmark.progress import Report, Throttled
from policykd.benchmark.rows import Row, final_evaluation_number, gradient_updates, group_updates, row
from policykd.benchmark.spec import Cell
from policykd.core.errors import PolicyKDError
from policykd.core.files import CHECKPOINT, STEPS
from policykd.distillation.methods import PEER_METHODS
from policykd.learners.config import PPOConfig
from policykd.tasks import Evaluation, Evaluator
from policykd.training import snapshot
from policykd.training.dual_student import DualStudent

AGENT = "agent.safetensors"
"""The trained learners without their replay: all that is kept of a finished cell's checkpoint."""


def train_ours(cell: Cell, folder: Path, report: Report) -> tuple[list[Row], dict[str, Any]]:
    """Train all seeds at once, from their last checkpoint if there is one.

    Args:
        cell: a cell of ``single`` or of a row of ``PEER_METHODS``.
        folder: the cell's folder; the run goes into its subfolder ``run``.
        report: called with a group's completed steps.
    """
    run_dir = folder / "run"
    agent = _begin_or_resume(cell, run_dir)
    agent.learn(cell.total_timesteps - agent.num_timesteps, callback=Throttled(report))
    assert agent.folder is not None
    seconds = _seconds(run_dir)
    evaluated = list(zip(agent.evaluation_steps, agent.evaluations, strict=True))
    rows = [r for steps, e in evaluated for r in _rows(cell, "curve", steps, e, seconds.get(steps, agent.run.elapsed))]
    seeds = [seed for seed, _ in agent.learners]
    with closing(Evaluator(agent.factory, agent.n_learners, agent.action_scale.to_env)) as evaluator:
        final = evaluator.run(agent.policies, cell.final_episodes, seeds, final_evaluation_number(cell))
    rows += _rows(cell, "final", cell.total_timesteps, final, agent.run.elapsed)
    rows += _as_one(cell, agent, final)
    _check_updates(cell, agent)
    agent.save(run_dir / AGENT)
    details = {
        "net_arch": list(cell.settings.net_arch),
        "learners_at_once": agent.n_learners,
        "computed_by": agent.computed_by,
        "seconds": round(agent.run.elapsed, 1),
    }
    return rows, details


def _as_one(cell: Cell, agent: DualStudent, final: Evaluation) -> Iterator[Row]:
    """One row per group and way to form one policy from its peers, on the initial states of the final evaluation.

    ``trained`` is the peer with the highest training return; ``group`` and ``greedy`` are the peers acting jointly;
    ``student`` is distilled from them without environment steps, and its seconds include the distillation.
    """
    if cell.peers == 1 or agent.learner_type.memory != "replay":
        return
    updates = group_updates(cell, cell.total_timesteps)
    chosen = agent.best_by_training()
    begun = time.perf_counter()
    student = agent.ship()
    shipping = time.perf_counter() - begun
    policies = {
        "group": lambda observations: agent.group_policies(observations, "mean"),
        "greedy": lambda observations: agent.group_policies(observations, "greedy"),
        "student": student.policies,
    }
    found = {"trained": final.returns[chosen]}
    with closing(Evaluator(agent.factory, len(cell.seeds), agent.action_scale.to_env)) as evaluator:
        for phase, act in policies.items():
            found[phase] = evaluator.run(
                act, cell.final_episodes, list(cell.seeds), final_evaluation_number(cell)
            ).returns
    for phase, returns in found.items():
        seconds = agent.run.elapsed + (shipping if phase == "student" else 0.0)
        for group, seed in enumerate(cell.seeds):
            learner = int(chosen[group]) % cell.peers if phase == "trained" else 0
            yield row(cell, phase, (seed, learner), cell.total_timesteps, updates, returns[group], seconds)


def _begin_or_resume(cell: Cell, run_dir: Path) -> DualStudent:
    method = "independent" if cell.base == "single" else cell.base
    assert method in PEER_METHODS
    asked = {"method": method, "backbone": cell.backbone, "peers": cell.peers, "seeds": list(cell.seeds)}
    if (run_dir / CHECKPOINT).exists():
        agent = DualStudent.load(run_dir, cell.task, device="cpu")
        with suppress(PolicyKDError):
            snapshot.check_same(agent.settings, {**asked, "config": snapshot.plain(cell.settings)})
            return agent
    if run_dir.exists():  # killed before a checkpoint, or the spec changed
        shutil.rmtree(run_dir)
    # Not compiled, so that the arithmetic depends on neither a cell's length nor the compiler.
    return DualStudent(cell.task, **asked, config=cell.settings, device="cpu", compile=False, run_dir=run_dir)  # type: ignore[arg-type]


def _rows(cell: Cell, phase: str, steps: int, evaluation: Evaluation, seconds: float) -> Iterator[Row]:
    """One row per learner of an evaluation with returns ``(K, n)``."""
    learners = [(seed, peer) for seed in cell.seeds for peer in range(cell.peers)]
    updates = group_updates(cell, steps)
    for (seed, peer), returns in zip(learners, evaluation.returns, strict=True):
        yield row(cell, phase, (seed, peer), steps, updates, returns, seconds)


def _check_updates(cell: Cell, agent: DualStudent) -> None:
    """Check that the computed number of gradient updates, which tables report, is what was done."""
    done, config = agent.recipe.n_updates, cell.settings
    if isinstance(config, PPOConfig):  # counts epochs
        done *= math.ceil(config.n_steps * config.n_envs / config.batch_size)
    said = gradient_updates(config, cell.total_timesteps // cell.peers)
    if done != said:
        raise PolicyKDError(f"benchmark: {cell.name} made {done} gradient updates per learner, not {said}")


def _seconds(run_dir: Path) -> dict[int, float]:
    """Training seconds at every row of a run's log, by steps."""
    with open(run_dir / "progress.csv", encoding="utf-8", newline="") as file:
        rows = [line for line in csv.DictReader(file) if line.get("time/time_elapsed")]
    return {int(line[STEPS]): float(line["time/time_elapsed"]) for line in rows}
