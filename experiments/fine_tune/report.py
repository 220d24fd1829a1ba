"""The table of fine-tuning: where every run began, its lowest evaluation and its end."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from experiments.measurements import Measurements
from policykd.benchmark.documents import publish
from policykd.core.files import write_text

AS_IT_WAS = "as it was"
KEYS = ("protocol", "env", "backbone", "way", "seed", "steps")
VALUES = ("return", "teacher", "random", "seconds")


def summary(measured: Measurements) -> pd.DataFrame:
    """One row per run: where it began, the share of that at its lowest evaluation, and at its last one.

    A share is of the return of the student as it was on the same initial states, both counted from that of random
    actions. A run began where the student, as it was, is on average over all evaluations.
    """
    frame, found, cells = measured.where(), [], list(KEYS[:-1])
    for key, rows in frame.groupby(cells, sort=False):
        protocol, env, backbone, _, seed = key
        one = measured.where(protocol=protocol, env=env, backbone=backbone, seed=seed, way=AS_IT_WAS)
        before, chance = one.set_index("steps")["return"], rows["random"].iloc[0]
        share = (rows.set_index("steps")["return"].sort_index() - chance) / (before.sort_index() - chance)
        found.append([*key, before.mean(), rows["teacher"].iloc[0], share.min(), share.iloc[-1]])
    return pd.DataFrame(found, columns=[*cells, "began", "teacher", "lowest", "end"])


def table(measured: Measurements) -> str:
    """All runs of a task, a backbone and a way in one line."""
    lines = [
        "| protocol | task | students | way | began at (teacher) | lowest evaluation, by seed | end, by seed |",
        "|---" * 7 + "|",
    ]
    runs_of = summary(measured)
    for key, runs in runs_of[runs_of.way != AS_IT_WAS].groupby(list(KEYS[:-2]), sort=False):
        cells = [" ".join(f"{value:.2f}" for value in runs[name]) for name in ("lowest", "end")]
        began = f"{' '.join(f'{value:,.0f}' for value in runs['began'])} ({runs['teacher'].iloc[0]:,.0f})"
        lines.append("| " + " | ".join([*map(str, key), began, *cells]) + " |")
    return "\n".join(lines)


def write(measured: Measurements, folder: Path, page: Path) -> None:
    """Write ``table.md`` beside the rows, and the table into the page between its markers."""
    text = table(measured) + "\n"
    write_text(folder / "table.md", text)
    publish(text, page, "fine-tuning")
