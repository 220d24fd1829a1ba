"""Markdown tables of a benchmark's results."""

from __future__ import annotations

import math
from collections.abc import Collection

from policykd.benchmark.bootstrap import Estimate
from policykd.benchmark.spec import Spec
from policykd.benchmark.statistics import METRICS, REFERENCES, MethodSummary, Summary

EMPTY = "-"


def benchmark_tables(summary: Summary) -> str:
    """All tables of a benchmark."""
    spec = summary.spec
    parts = [f"{spec.summary.strip()}\n"] if spec.summary else []
    for backbone, methods in summary.backbones.items():
        for task in [t for t in spec.tasks if any(t in method.tasks for method in methods.values())]:
            parts.append(f"#### {task}, {backbone.upper()}\n\n{task_table(methods, task)}")
        parts.append(f"#### {backbone.upper()}, all its tasks\n\n{aggregate_table(summary, backbone)}")
    parts.append(references(summary))
    if summary.failures:
        failed = [f"* `{name}`: {text.partition(chr(10))[0]}" for name, text in summary.failures.items()]
        parts.append("Failed:\n\n" + "\n".join(failed) + "\n")
    missing = [name for name in summary.missing if name not in summary.failures]
    if missing:
        parts.append(f"Not run yet: {', '.join(f'`{pattern}`' for pattern in patterns(spec, missing))}.\n")
    return "\n".join(parts)


def patterns(spec: Spec, names: Collection[str]) -> list[str]:
    """Summarise cells as few patterns for ``--only``: a whole task, a backbone on a task, or single cells."""
    left, found = set(names), list[str]()
    for task in spec.tasks:
        cells = [cell for cell in spec.cells if cell.task == task]
        backbones = {cell.backbone: [c.name for c in cells if c.backbone == cell.backbone] for cell in cells}
        place = cells[0].name.partition("/")[0]
        whole = {f"{place}/*": [cell.name for cell in cells]}
        whole |= {f"{place}/*-{backbone}": of_backbone for backbone, of_backbone in backbones.items()}
        for pattern, fits in whole.items():
            if len(fits) > 1 and left.issuperset(fits):
                found.append(pattern)
                left.difference_update(fits)
        found += [cell.name for cell in cells if cell.name in left]
    return found


def task_table(methods: dict[str, MethodSummary], task: str) -> str:
    """Final returns on one task, with their cost."""
    lines = [
        "| method | seeds | selected peer | mean of peers | environment steps | gradient updates | seconds per group |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, method in methods.items():
        if (found := method.tasks.get(task)) is None:
            continue
        scores = found.scores
        both = [shown(found.iqm["selected"]), shown(found.iqm["mean"]) if scores.final.shape[1] > 1 else EMPTY]
        cost = f"{scores.steps[-1]:,} | {scores.updates:,} | {scores.seconds:,.0f}"
        lines.append(f"| {name} | {len(scores.final)} | {' | '.join(both)} | {cost} |")
    return "\n".join(lines) + "\n"


def aggregate_table(summary: Summary, backbone: str) -> str:
    """Normalised scores of the selected peers over all tasks of a backbone, with probabilities of improvement."""
    methods = summary.backbones[backbone]
    better = [f"P(better than {name})" for name in REFERENCES]
    lines = [f"| method | {' | '.join((*METRICS, *better))} |", "|---" * (1 + len(METRICS) + len(better)) + "|"]
    for name, method in methods.items():
        aggregate = None if method.aggregate is None else method.aggregate["selected"]
        cells = [EMPTY if aggregate is None else shown(aggregate[metric]) for metric in METRICS]
        cells += [shown(found) if (found := method.better["selected"].get(r)) else EMPTY for r in REFERENCES]
        lines.append(f"| {' '.join((name, coverage_note(summary, backbone, name))).strip()} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def coverage_note(summary: Summary, backbone: str, method: str) -> str:
    """A note for methods that have not run on every task of a backbone, else an empty string."""
    have = len(summary.backbones[backbone][method].tasks)
    wanted = sum(backbone in task.backbones for task in summary.spec.tasks.values())
    return "" if have == wanted else f"({have} of {wanted} tasks)"


def references(summary: Summary) -> str:
    """Reference returns of the normalised scores, with their sources."""
    lines = ["| task | counts as 0 | counts as 1 | source |", "|---|---|---|---|"]
    for name, task in summary.spec.tasks.items():
        reference = task.reference
        source = " ".join(reference.source.split()).replace("|", r"\|")  # must end neither row nor column
        lines.append(f"| {name} | {number(reference.low)} | {number(reference.high)} | {source} |")
    return "\n".join(lines) + "\n"


def shown(estimate: Estimate) -> str:
    """Format an estimate as ``value [low, high]``, or ``value [-]`` without an interval."""
    limits = EMPTY if math.isnan(estimate.low) else f"{number(estimate.low)}, {number(estimate.high)}"
    return f"{number(estimate.value)} [{limits}]"


def number(value: float) -> str:
    """Format a number with about three digits, but all before the decimal point."""
    digits = 0 if abs(value) >= 100 else 1 if abs(value) >= 10 else 2
    return f"{value + 0.0:,.{digits}f}"
