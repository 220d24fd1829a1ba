"""The table of fine-tuning: where every run began, its lowest evaluation and its end."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from experiments.measurements import Measurements
from policykd.core.files import write_text

KEYS = ("env", "backbone", "way", "seed", "steps")
VALUES = ("return", "student", "teacher", "random", "seconds")


def shares(rows: pd.DataFrame) -> pd.DataFrame:
    """Returns over that of the student as it was, both counted from random actions.

    Args:
        rows: of one run: a task, a backbone, a way, a seed.

    Returns:
        steps and share; where the student was is its mean over the initial states of all evaluations.
    """
    began = rows["student"].mean()
    chance = rows["random"].iloc[0]
    return pd.DataFrame({"steps": rows["steps"], "share": (rows["return"] - chance) / (began - chance)})


def summary(measured: Measurements) -> pd.DataFrame:
    """One row per run: where it began, the share at its lowest evaluation, and that of its last one."""
    frame, found = measured.where(), []
    for (env, backbone, way, seed), rows in frame.groupby(["env", "backbone", "way", "seed"], sort=False):
        share = shares(rows.sort_values("steps"))["share"]
        began, teacher = rows["student"].mean(), rows["teacher"].iloc[0]
        found.append([env, backbone, way, seed, began, teacher, share.min(), share.iloc[-1]])
    return pd.DataFrame(found, columns=["env", "backbone", "way", "seed", "began", "teacher", "lowest", "end"])


def table(measured: Measurements) -> str:
    """All runs of a task, a backbone and a way in one line."""
    lines = [
        "| task | students | way | began at (teacher) | lowest evaluation, by seed | end, by seed |",
        "|---|---|---|---|---|---|",
    ]
    for (env, backbone, way), runs in summary(measured).groupby(["env", "backbone", "way"], sort=False):
        cells = [" ".join(f"{value:.2f}" for value in runs[name]) for name in ("lowest", "end")]
        began = f"{' '.join(f'{value:,.0f}' for value in runs['began'])} ({runs['teacher'].iloc[0]:,.0f})"
        lines.append(f"| {env} | {backbone} | {way} | {began} | {cells[0]} | {cells[1]} |")
    return "\n".join(lines)


def write(measured: Measurements, folder: Path) -> None:
    """Write ``table.md`` beside the rows."""
    write_text(folder / "table.md", table(measured) + "\n")
