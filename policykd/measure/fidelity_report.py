"""The report of fidelity for classifiers and policies: the same measures, table and plot.

``agreement`` is the fraction of examples or states at which student and teacher agree, ``kl`` the mean
KL(teacher || student) in nats, ``distance`` the mean distance of their predictions or actions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from policykd.core.files import csv_text, write_text
from policykd.measure.pictures import fidelity_picture

Who = Literal["student", "control", "teacher", "peers"]
"""The student, the control (a student of another teacher with the same settings), the teacher itself; or peers, with
independent learners as the control."""
Reliability = Mapping[str, tuple[np.ndarray, np.ndarray]]
"""Confidence and correctness of predictions, each ``(N,)``, by network."""


class Row(NamedTuple):
    """Measures of one network on one set of examples or states."""

    split: str
    """Name of the set: train, test; student_states, teacher_states."""
    who: Who
    """The network that is compared with the teacher."""
    measures: dict[str, float]
    """Values by name, in the order of the table's columns; NaN if undefined."""


def as_table(rows: Sequence[Row]) -> str:
    """The report as a Markdown table."""
    names = list(rows[0].measures)
    lines = [f"| split | who | {' | '.join(names)} |", "|---|---|" + "---|" * len(names)]
    for row in rows:
        lines.append(f"| {row.split} | {row.who} | {' | '.join(f'{row.measures[name]:.3f}' for name in names)} |")
    return "\n".join(lines) + "\n"


def as_csv(rows: Sequence[Row]) -> str:
    """The report as CSV."""
    names = list(rows[0].measures)
    lines = [(row.split, row.who, *(f"{row.measures[name]:.6g}" for name in names)) for row in rows]
    return csv_text([("split", "who", *names), *lines])


def write(rows: Sequence[Row], folder: Path, units: Mapping[str, str], reliability: Reliability | None = None) -> None:
    """Write ``fidelity.csv``, ``fidelity.md`` and ``fidelity.png``.

    Args:
        rows: the report.
        folder: created if missing.
        units: the measures to plot, and the unit of each.
        reliability: data of an additional reliability diagram.
    """
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / "fidelity.csv", as_csv(rows))
    write_text(folder / "fidelity.md", as_table(rows))
    measures: dict[str, dict[str, dict[str, float]]] = {}
    for row in rows:
        measures.setdefault(row.split, {})[row.who] = row.measures
    fidelity_picture(measures, units, folder / "fidelity.png", reliability)
