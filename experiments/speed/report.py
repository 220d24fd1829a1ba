"""Raw rows of the measurement as tables."""

from __future__ import annotations

import csv
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path

from experiments.speed.cases import Options, rivals
from policykd import native

KEYS = ("steps_per_second", "ratio_per_learner")


def sizes(options: Options) -> list[tuple[int, int]]:
    """Width of the networks and batch size of all cases."""
    return sorted({(case.width, case.batch_size) for case in options.cases})


def values(raw: list[dict], who: str, width: int, key: str) -> list[float]:
    """One figure of one side at one network size, of all rounds, rising."""
    return sorted(row[key] for row in raw if row["who"] == who and row["width"] == width)


def write_rows(path: Path, rows: Sequence[Mapping[str, object]]) -> None:
    """Write raw rows, all of the same columns, as CSV."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def tables(options: Options, raw: list[dict], parts: list[dict]) -> str:
    """The results as Markdown."""
    lines = [
        f"{options.backbone.upper()} on {options.env}, one thread, the same updates per environment step and learner;",
        f"ours with distillation. Medians of {options.rounds} rounds in turn; ratios are taken round by round.",
        "",
        "| networks, batch | who | steps/s, all learners | against one SB3 learner | lowest to highest "
        "| per learner | aim |",
        "|---|---|---|---|---|---|---|",
    ]
    for width, batch_size in sizes(options):
        cases = [(case.name, case.target) for case in options.cases if case.width == width]
        for who, target in [*((name, "-") for name in rivals()), *cases]:
            ratios = values(raw, who, width, "ratio")
            speed, single = (statistics.median(values(raw, who, width, key)) for key in KEYS)
            lines.append(
                f"| {width}x{width}, {batch_size} | {who} | {speed:,.0f} | {statistics.median(ratios):.1f}x "
                f"| {ratios[0]:.1f} to {ratios[-1]:.1f} | {single:.2f}x | {target} |"
            )
    lines += ["", "Microseconds per environment step of one learner, and GFLOP/s:", ""]
    names = [name for name in parts[0] if name not in ("width", "who")]
    lines += ["| networks | ours | " + " | ".join(names) + " |", "|---" * (len(names) + 2) + "|"]
    for part in parts:
        figures = " | ".join(f"{part[name]:.0f}" for name in names)
        lines.append(f"| {part['width']} | {part['who']} | {figures} |")
    lines += ["", f"Kernels: {'native' if not native.reason() else f'torch ({native.reason()})'}."]
    return "\n".join(lines) + "\n"
