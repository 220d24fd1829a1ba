"""The table of results/memory_students/rows.csv, into the page between its markers."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from pathlib import Path

import tyro

from experiments.measurements import Measurements, mean_std
from experiments.memory_students.run import KEYS, VALUES
from experiments.memory_students.spec import PROTOCOLS, STUDENTS, TEACHERS
from policykd.benchmark.documents import publish
from policykd.cli import guarded
from policykd.core.files import write_text


@dataclass(frozen=True)
class Options:
    """Write the table."""

    out: Path = Path("results/memory_students")
    """Where the rows are."""
    page: Path = Path("docs/memory.md")
    """The page that shows the table."""


def table(rows: Measurements) -> str:
    """A line per task, budget and student that was measured."""
    lines = ["| task | protocol | student | seeds | retention | return | teacher | falls |", "|---" * 8 + "|"]
    for task, protocol, student in product(TEACHERS, PROTOCOLS, STUDENTS):
        found = rows.where(task=task, protocol=protocol, student=student)
        if len(found):
            kept, returns = mean_std(found["retention"].to_numpy(), 2), mean_std(found["return"].to_numpy(), 0)
            falls = f"{found.falls.mean():.1f} of {found.episodes.iloc[0]}"
            cells = (
                task,
                protocol,
                student,
                len(found),
                kept,
                returns,
                f"{found.teacher_return_here.mean():,.0f}",
                falls,
            )
            lines.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(lines)


def main(options: Options) -> None:
    text = table(Measurements(options.out / "rows.csv", KEYS, VALUES)) + "\n"
    write_text(options.out / "table.md", text)
    publish(text, options.page, "memory")


if __name__ == "__main__":
    guarded(lambda: main(tyro.cli(Options, description=__doc__)))
