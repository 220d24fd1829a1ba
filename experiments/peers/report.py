"""Table of a peers' benchmark: every way of making one policy of a group, beside its cost.

python -m experiments.peers.report results/peers_gate
"""

from __future__ import annotations

import argparse
from pathlib import Path

import pandas as pd

from policykd.benchmark.results import Results
from policykd.benchmark.spec import task_folder
from policykd.cli import guarded
from policykd.core.files import write_text

WAYS = {"final": "mean of peers", "trained": "best in training", "group": "mean action", "student": "student"}
"""Phases of the rows (``policykd.benchmark.rows.Row``), as columns; single learners have the first alone."""


def rows(folder: Path) -> pd.DataFrame:
    """All rows of finished cells, in the order of their names.

    Raises:
        PolicyKDError: rows that were changed since, or are of another spec than the one beside them.
    """
    results = Results(folder)
    cells = results.spec().cells
    done = results.done(cells)
    parts = [
        pd.DataFrame([vars(row) for row in results.rows(cell)]).assign(task=task_folder(cell.task), method=cell.method)
        for cell in sorted(cells, key=lambda cell: cell.name)
        if cell.name in done
    ]
    return pd.concat(parts, ignore_index=True).rename(columns={"mean": "return"})


def table(found: pd.DataFrame) -> str:
    """Mean return and its standard error over groups, by task, backbone and method."""
    groups = found.groupby(["task", "backbone", "method", "phase", "seed"], sort=False)["return"].mean().reset_index()
    lines = ["| task | backbone | method | groups | " + " | ".join(WAYS.values()) + " | updates of a group |"]
    lines.append("|---|---|---|---|" + "---|" * (len(WAYS) + 1))
    for (task, backbone, method), part in groups.groupby(["task", "backbone", "method"], sort=False):
        shown = []
        for way in WAYS:
            returns = part.loc[part["phase"] == way, "return"]
            error = returns.std(ddof=1) / max(1, len(returns)) ** 0.5
            shown.append(f"{returns.mean():,.0f} +- {error:,.0f}" if len(returns) else "-")
        one = found[(found["task"] == task) & (found["backbone"] == backbone) & (found["method"] == method)]
        updates = int(one.loc[(one["phase"] == "final") & (one["learner"] == 0), "updates"].iloc[0])
        count = part["seed"].nunique()
        lines.append(f"| {task} | {backbone} | {method} | {count} | " + " | ".join(shown) + f" | {updates:,} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    text = table(rows(folder))
    write_text(folder / "table.md", text)
    print(text)


if __name__ == "__main__":
    guarded(main)
