"""The table of results/discrete from its rows: ``python -m experiments.discrete.report`` writes students.md."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import tyro

from policykd.cli import guarded
from policykd.cli.output import say
from policykd.core.errors import PolicyKDError
from policykd.core.files import write_text

TASKS = {"ppo": "PPO, CartPole-v1", "dqn": "DQN, CartPole-v1", "lander": "scripted, LunarLander-v3"}
"""Each teacher as the table calls it."""
COLUMNS = (
    "| teacher | loss | student | parameters | teacher's return | student's return | kept, by seed | same choice |"
)


def table(folder: Path) -> str:
    """A line per teacher, loss and size, of the rows that there are."""
    lines = [COLUMNS, "|---" * 8 + "|"]
    for name, title in TASKS.items():
        if not (folder / f"{name}.csv").exists():
            continue
        rows = pd.read_csv(folder / f"{name}.csv")
        for (divergence, student), own in rows.groupby(["divergence", "student"], sort=False):
            kept = ", ".join(f"{value:.3f}" for value in own["retention"])
            lines.append(
                f"| {title} | {divergence} | {student} | {own['parameters'].iloc[0]:,} "
                f"| {own['teacher_return_here'].mean():,.1f} | {own['return'].mean():,.1f} | {kept} "
                f"| {own['agreement_student_states'].mean():.3f} |"
            )
    return "\n".join(lines)


def main(folder: Path = Path("results/discrete")) -> None:
    if not any((folder / f"{name}.csv").exists() for name in TASKS):
        raise PolicyKDError(f"discrete: no rows of python -m experiments.discrete.run in {folder}")
    text = table(folder)
    write_text(folder / "students.md", f"# DAgger students of teachers that choose\n\n{text}\n")
    say(text)


if __name__ == "__main__":
    guarded(lambda: tyro.cli(main, description=__doc__))
