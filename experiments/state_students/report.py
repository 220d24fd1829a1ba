"""The table of results/state_students/rows.csv, into the page between its markers."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import tyro

from experiments.measurements import Measurements, interval
from experiments.state_students.run import KEYS, VALUES
from experiments.state_students.spec import MEMORIES, MIXED, STUDENTS
from policykd.benchmark.documents import publish
from policykd.cli import guarded
from policykd.core.files import write_text

METHODS = (*MEMORIES, "plain", MIXED, *(name for name in STUDENTS if name != "plain"))
"""In the order of the table."""


@dataclass(frozen=True)
class Options:
    """Write the table."""

    out: Path = Path("results/state_students")
    """Where the rows are."""
    page: Path = Path("docs/offline.md")
    """The page that shows the table."""


def table(rows: Measurements) -> str:
    """A line per task, width, method and weight that was measured."""
    lines = ["| task | units | method | weight | return | of the teacher's | action error | numbers kept |"]
    lines.append("|---" * 8 + "|")
    frame = rows.where()
    frame["order"] = frame.method.map(METHODS.index)
    for (task, width, _, weight), own in frame.groupby(["task", "width", "order", "weight"], sort=True):
        method, share = own.method.iloc[0], own["return"].mean() / own.teacher_return.iloc[0]
        cells = (
            *(task, f"{width}x{width}" if width else "none", method, f"{weight:g}" if weight else ""),
            *(interval(own["return"], 0), f"{share:.2f}", f"{own.error.mean():.3f}", f"{own.numbers.iloc[0]:,}"),
        )
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(lines)


def main(options: Options) -> None:
    text = table(Measurements(options.out / "rows.csv", KEYS, VALUES))
    write_text(options.out / "table.md", text + "\n")
    publish(text + "\n", options.page, "states")


if __name__ == "__main__":
    guarded(lambda: main(tyro.cli(Options, description=__doc__)))
