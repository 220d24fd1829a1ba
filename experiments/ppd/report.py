"""The table of results/ppd/rows.csv, into the page between its markers."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from pathlib import Path

import tyro

from experiments.measurements import Measurements, mean_std
from experiments.ppd.run import KEYS, PROTOCOLS, VALUES, WAYS
from policykd.benchmark.documents import publish
from policykd.cli import guarded
from policykd.core.files import write_text


@dataclass(frozen=True)
class Options:
    """Write the table."""

    out: Path = Path("results/ppd")
    """Where the rows are."""
    page: Path = Path("docs/students_measured.md")
    """The page that shows the table."""


def table(rows: Measurements) -> str:
    """A line per protocol, way and number of steps: what is kept of the teacher, and how far the student still is."""
    lines = ["| protocol | way | steps | seeds | retention | distance | student's std |", "|---" * 7 + "|"]
    for protocol, way in product(PROTOCOLS, WAYS):
        for steps in PROTOCOLS[protocol][2]:
            found = rows.where(protocol=protocol, way=way)
            found = found[found.steps.between(steps, 1.2 * steps)] if len(found) else found
            if len(found):
                cells = protocol, way, f"{steps:,}", len(found), mean_std(found.retention.to_numpy(), 2)
                means = f"{found.distance.mean():.2f}", f"{found['std'].mean():.2f}"
                lines.append("| " + " | ".join(map(str, (*cells, *means))) + " |")
    return "\n".join(lines)


def main(options: Options) -> None:
    text = table(Measurements(options.out / "rows.csv", KEYS, VALUES)) + "\n"
    write_text(options.out / "table.md", text)
    publish(text, options.page, "ppd")


if __name__ == "__main__":
    guarded(lambda: main(tyro.cli(Options, description=__doc__)))
