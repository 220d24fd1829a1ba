"""Compares students of one teacher: cost, return and fidelity."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from policykd.benchmark.retention import retention
from policykd.core.files import csv_text, write_text
from policykd.measure.fidelity import Fidelity, fidelity
from policykd.measure.footprint import footprint
from policykd.measure.plots import against_size
from policykd.training.teacher_student import TeacherStudent

LEVELS = (0.90, 0.95)
"""Fractions of the teacher's return for which the time to reach them is reported."""
Row = dict[str, Any]


def measure(
    agent: TeacherStudent, *, episodes: int = 50, seed: int = 1_000_000, latency_calls: int = 2_000
) -> list[Row]:
    """Measure every student of a trained agent, one row each.

    The final return is that of the student after training, on new initial states (``seed``) that the teacher plays too
    (``retention``). Steps and seconds to a fraction of the teacher's return are those of the first evaluation in
    training whose mean return reaches it; seconds are for training all seeds together.
    """
    score = agent.score_teacher()
    assert score is not None
    evaluation = agent.evaluate(episodes, seed=seed)
    final, kept = evaluation.returns, retention(agent, evaluation, seed)
    name = "x".join(map(str, agent.config.net_arch))
    rows = []
    for k, student_seed in enumerate(agent.seeds):
        row: Row = {"student": name, "seed": student_seed, "method": agent.method_name, "backbone": agent.backbone}
        row |= asdict(footprint(agent, k, latency_calls))
        row |= {"return": final[k].mean(), "return_ratio": float(score.ratio(final[k]).mean())}
        row |= {"teacher_return": score.mean, "random_return": score.random_mean, **kept[k]}
        for where, measured in _fidelity(agent, k).items():
            row |= {f"{what}_{where}": value for what, value in asdict(measured).items()}
        ratios = [float(score.ratio(e.returns[k]).mean()) for e in agent.evaluations]
        for level in LEVELS:
            first = next((i for i, ratio in enumerate(ratios) if ratio >= level), None)
            steps = "" if first is None else agent.evaluation_steps[first]
            seconds = "" if first is None else round(agent.run.evaluation_seconds[first], 1)
            row |= {f"steps_to_{level:.0%}": steps, f"seconds_to_{level:.0%}": seconds}
        rows.append(row | {"env_steps": agent.num_timesteps, "seconds": round(agent.run.elapsed, 1)})
    return rows


def _fidelity(agent: TeacherStudent, k: int) -> dict[str, Fidelity]:
    """Fidelity of student to teacher; not measured if one of them needs more than a state."""
    assert agent.panel is not None
    if agent.remembers or not agent.panel.is_stateless:
        return dict.fromkeys(("student_states", "teacher_states"), Fidelity(math.nan, math.nan, math.nan))
    return fidelity(agent, k)


def write_csv(rows: Sequence[Row], path: Path) -> None:
    """Write all rows, atomically."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, csv_text([rows[0], *([row[name] for name in rows[0]] for row in rows)]))


def table(rows: Sequence[Row]) -> str:
    """Markdown table of means over seeds, one line per student; levels not reached by all seeds have no steps."""
    columns = (
        ("student", "student"),
        ("parameters", "parameters"),
        ("bytes", "bytes"),
        ("flops", "FLOPs"),
        ("latency_p50", "p50 (us)"),
        ("latency_p99", "p99 (us)"),
        ("return", "return"),
        ("return_ratio", "ratio"),
        ("retention", "kept (same starts)"),
        ("return_min", "worst"),
        ("teacher_return_min", "teacher's worst"),
        ("falls", "falls"),
        ("teacher_falls", "teacher's falls"),
        ("distance_student_states", "distance (own)"),
        ("agreement_student_states", "agreement (own)"),
        ("distance_teacher_states", "distance (teacher's)"),
        ("agreement_teacher_states", "agreement (teacher's)"),
        *((f"steps_to_{level:.0%}", f"steps to {level:.0%}") for level in LEVELS),
        *((f"seconds_to_{level:.0%}", f"s to {level:.0%}") for level in LEVELS),
    )
    lines = ["| " + " | ".join(title for _, title in columns) + " |", "|---" * len(columns) + "|"]
    for student in dict.fromkeys(row["student"] for row in rows):
        own = [row for row in rows if row["student"] == student]
        cells = [_cell(name, [row[name] for row in own]) for name, _ in columns]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _cell(name: str, values: Sequence[Any]) -> str:
    if isinstance(values[0], str) and name == "student":
        return values[0]
    if "" in values:
        reached = sum(value != "" for value in values)
        return f"{reached} of {len(values)} seeds"
    mean = float(np.mean(values))
    return f"{mean:,.3f}" if abs(mean) < 10 else f"{mean:,.0f}"


def picture(rows: Sequence[Row], path: Path, title: str) -> Path:
    """Plot return ratio against size."""
    points = {}
    for student in dict.fromkeys(row["student"] for row in rows):
        own = [row for row in rows if row["student"] == student]
        points[student] = np.array(own[0]["parameters"]), np.array([row["return_ratio"] for row in own])
    return against_size(points, path, title=title, unit="return / the teacher's")
