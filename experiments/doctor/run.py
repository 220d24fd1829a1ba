"""How well does ``policykd doctor`` find what was broken on purpose? Rows, table and picture.

Every fault of ``faults.py`` is one diagnosis per seed, of which each check is a row: was it said to be wrong? The
teachers are agents of rl-baselines3-zoo and broken copies of them: say where they are with --teachers or
POLICYKD_TEACHERS. What is finished is kept: start it again to go on.
"""

from __future__ import annotations

import os
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import tyro
from matplotlib.figure import Figure

from experiments.doctor.faults import FAULTS, teacher_of
from experiments.measurements import Measurements
from policykd.benchmark.documents import publish
from policykd.cli import guarded
from policykd.cli.output import say
from policykd.core.files import write_text
from policykd.measure.doctor import diagnose
from policykd.measure.plots import COLOURS, FAINT, INK, save_figure

SEEDS = (0, 1, 2)
EPISODES, FEWER = 20, 6
"""Episodes of the teacher: as many as the command plays, and fewer of HalfCheetah's thousand steps."""
KEYS = ("fault", "seed", "check")
VALUES = ("state", "expected", "measured")


@dataclass(frozen=True)
class Options:
    """Break things, and ask."""

    teachers: Path = Path(os.environ.get("POLICYKD_TEACHERS", "teachers"))
    """Folder of the zoo's agents."""
    out: Path = Path("results/doctor")
    """Where rows, table and picture go."""
    page: Path = Path("docs/doctor.md")
    """The page that shows the table."""
    report: bool = False
    """Only write table and picture of what is there."""


def main(options: Options) -> None:
    """Run what is missing, then write table and picture."""
    rows = Measurements(options.out / "rows.csv", KEYS, VALUES)
    for name in FAULTS if not options.report else ():
        for seed in rows.missing(SEEDS, fault=name):
            rows.add(*asked(name, seed, options.teachers))
    frame = rows.where()
    text = table(frame) + "\n"
    write_text(options.out / "table.md", text)
    publish(text, options.page, "doctor")
    draw(frame, options.out / "doctor.png")


def asked(name: str, seed: int, teachers: Path) -> list[dict[str, object]]:
    """One row per check of one diagnosis."""
    fault = FAULTS[name]
    with tempfile.TemporaryDirectory() as folder:
        teacher = teacher_of(fault, teachers, Path(folder), seed)
        episodes = FEWER if fault.normaliser else EPISODES
        options = {"updates": 0, "n_episodes": episodes, "seed": seed, **fault.options}
        findings = diagnose(teacher, fault.make, trust=True, **options).findings
    say(f"{name}, seed {seed}: {', '.join(f.check for f in findings if f.state == 'wrong') or 'nothing wrong'}")
    common = {"fault": name, "seed": seed, "expected": fault.check}
    return [{**common, "check": f.check, "state": f.state, "measured": f.measured} for f in findings]


def table(frame: pd.DataFrame) -> str:
    """A line per fault: in how many diagnoses its check said so, and what else was said."""
    lines = ["| broken | should be said | said | said besides |", "|---" * 4 + "|"]
    for name, fault in FAULTS.items():
        own = frame[frame.fault == name]
        if own.empty:
            continue
        wrong, count = own[own.state == "wrong"].check, own.seed.nunique()
        said = f"{(wrong == fault.check).sum()} of {count}" if fault.check else ""
        others = wrong[wrong != fault.check].value_counts()
        besides = ", ".join(f"{check} ({times})" for check, times in others.items())
        lines.append(f"| {name} | {fault.check or 'nothing'} | {said} | {besides} |")
    return "\n".join(lines)


def draw(frame: pd.DataFrame, path: Path) -> None:
    """Faults by checks: in how many diagnoses each was said to be wrong; a frame where it should be."""
    faults = [name for name in FAULTS if (frame.fault == name).any()]
    checks = ["answers", *dict.fromkeys(frame.check[frame.check != "answers"])]
    said = frame[frame.state == "wrong"].groupby(["fault", "check"]).size()
    counts = np.array([[said.get((name, check), 0) for check in checks] for name in faults])
    asked_of = {(name, check) for name, check in zip(frame.fault, frame.check, strict=True)}
    figure = Figure(figsize=(9.5, 0.32 * len(faults) + 2.2), dpi=150, facecolor="white", layout="constrained")
    axes = figure.subplots()
    for row, name in enumerate(faults):
        for column, check in enumerate(checks):
            expected = check == FAULTS[name].check
            if (name, check) not in asked_of and check != "answers":  # which is a row only where it is wrong
                axes.text(column, row, "-", ha="center", va="center", color=FAINT)
            elif counts[row, column]:
                axes.scatter(column, row, s=45 * counts[row, column], color=COLOURS[0 if expected else 1], linewidths=0)
            if expected:
                axes.plot(column, row, "s", markersize=17, markerfacecolor="none", markeredgecolor=INK)
    axes.set_xticks(range(len(checks)), checks, rotation=40, ha="left", fontsize=8, color=INK)
    axes.set_yticks(range(len(faults)), faults, fontsize=8, color=INK)
    axes.xaxis.tick_top()
    axes.set(xlim=(-0.6, len(checks) - 0.4), ylim=(len(faults) - 0.4, -0.6))
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    axes.grid(color="#eeeeee", linewidth=0.8)
    axes.set_axisbelow(True)
    caption = f"frame: what should be said; dot: it was said, the larger in the more of {frame.seed.nunique()} seeds"
    figure.supxlabel(f"{caption}; blue: the fault, orange: something else; -: was not asked", fontsize=8, color=FAINT)
    save_figure(figure, path)


if __name__ == "__main__":
    guarded(lambda: main(tyro.cli(Options, description=__doc__)))
