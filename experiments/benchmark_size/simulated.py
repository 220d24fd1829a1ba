"""Made-up results of a whole benchmark within seconds: what tests and timings of plans, tables and pages work on."""

from __future__ import annotations

import zlib

import numpy as np

from policykd.benchmark.results import Results
from policykd.benchmark.rows import CellResult, Row
from policykd.benchmark.spec import Cell, Spec


def simulate(spec: Spec, results: Results) -> None:
    """Fill ``results`` with a learning curve for every learner of every cell, the same at every call."""
    for cell in spec.cells:
        results.save(cell, simulate_cell(spec, cell))


def simulate_cell(spec: Spec, cell: Cell) -> CellResult:
    """Returns that rise from the task's low reference towards a height of the method's and the seed's own."""
    generator = np.random.default_rng(zlib.crc32(cell.name.encode()))
    reference = spec.tasks[cell.task].reference
    rows = []
    for seed in cell.seeds:
        height = generator.uniform(0.5, 0.7) + 0.15 * generator.standard_normal()
        for learner in range(cell.peers):
            for e in range(cell.evaluations + 1):
                last = e == cell.evaluations
                share = min(e + 1, cell.evaluations) / cell.evaluations
                score = height * (1 - np.exp(-3 * share)) + 0.03 * generator.standard_normal()
                rows.append(_row(cell, seed, learner, share, last, reference.low, reference.high, score))
    return CellResult(rows, {"command": "simulated", "cell": cell.plain(), "seconds": 1.0})


def _row(cell: Cell, seed: int, learner: int, share: float, last: bool, low: float, high: float, score: float) -> Row:
    steps, mean = round(cell.total_timesteps * share), low + score * (high - low)
    episodes = cell.final_episodes if last else cell.n_eval_episodes
    phase = "final" if last else "curve"
    return Row(cell.backbone, phase, seed, learner, steps, steps, episodes, float(mean), 1.0, share)
