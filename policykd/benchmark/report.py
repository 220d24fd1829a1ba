"""A self-contained HTML page of a benchmark's results, which needs no network."""

from __future__ import annotations

import base64
import html
import json
import os
from importlib import resources
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np

from policykd.benchmark.bootstrap import Estimate
from policykd.benchmark.results import Results
from policykd.benchmark.spec import BASELINES, Spec, task_folder
from policykd.benchmark.statistics import METRICS, REFERENCES, RULES, Summary, TaskSummary
from policykd.benchmark.tables import coverage_note, number, shown
from policykd.core.errors import PolicyKDError
from policykd.core.extras import import_extra
from policykd.core.files import write_text
from policykd.distillation.methods import METHODS

VIDEO_BYTES = 2_500_000
"""Total size of the videos embedded in the page; further ones are only linked."""

# Okabe and Ito's palette without black and yellow, and four more colours that are distinct on white and on black.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8A63D2", "#C2185B", "#5B9A1F", "#B5651D")
DASHES = ("dash", "dot", "dashdot", "longdash")


def write_page(summary: Summary, results: Results, out: Path) -> None:
    """Write the HTML page.

    Args:
        summary: statistics to show.
        results: raw rows and videos to link or embed.
        out: the HTML file, replaced atomically.

    Raises:
        PolicyKDError: plotly is not installed, or no cell is finished.
    """
    plotly = import_extra("plotly.offline", "benchmark")
    if not summary.backbones and not summary.failures:
        raise PolicyKDError(f"report: {results.store.place} has no finished cell yet: run the benchmark first")
    parts = {
        "title": html.escape(f"{summary.spec.name}: benchmark"),
        "style": _part("report.css"),
        "plotly": plotly.get_plotlyjs(),
        "script": _part("report.js"),
        # Only "<" could end the script element early.
        "data": json.dumps(page_data(summary, results, out), separators=(",", ":")).replace("<", "\\u003c"),
    }
    text = _part("report.html")
    for name, part in parts.items():
        text = text.replace(f"/*{name}*/", part, 1)
    out.parent.mkdir(parents=True, exist_ok=True)
    write_text(out, text)


def page_data(summary: Summary, results: Results, out: Path) -> dict[str, Any]:
    """Content of the page as JSON: numbers of the charts and text of the tables."""
    spec = summary.spec
    return {
        "name": spec.name,
        "summary": spec.summary,
        "facts": _facts(spec),
        "rules": {"selected": "selected peer", "mean": "mean of peers"},
        "metrics": list(METRICS),
        "references": list(REFERENCES),
        "methods": _looks(spec),
        "backbones": {
            backbone: {
                "tasks": [name for name, task in spec.tasks.items() if backbone in task.backbones],
                "methods": {name: _method(summary, backbone, name, results, out) for name in methods},
            }
            for backbone, methods in summary.backbones.items()
        },
        "steps": [spec.total_timesteps // spec.evaluations * (e + 1) for e in range(spec.evaluations)],
        "taus": _numbers(summary.taus),
        "normalised": [
            [name, number(t.reference.low), number(t.reference.high), t.reference.source]
            for name, t in spec.tasks.items()
        ],
        "failures": summary.failures,
        "missing": [name for name in summary.missing if name not in summary.failures],
        "videos": _videos(results, out),
    }


def _facts(spec: Spec) -> list[str]:
    groups = [str(n) for n in sorted({cell.peers for cell in spec.cells if cell.base not in BASELINES})]
    return [
        f"{spec.total_timesteps:,} environment steps per group, all of its learners together",
        *([f"{' or '.join(groups)} learners per group of peers"] if groups else []),
        f"{spec.seeds} seeds, unless a table says otherwise",
        f"{spec.evaluations} evaluations of {spec.n_eval_episodes} episodes on the way, a final one of "
        f"{spec.final_episodes} episodes from new initial states",
    ]


def _looks(spec: Spec) -> dict[str, dict[str, str]]:
    """Line styles of the methods; baselines are grey and dashed."""
    looks: dict[str, dict[str, str]] = {}
    known = {**BASELINES, **{name: method.summary for name, method in METHODS.items()}}
    greys = colours = 0
    for name, entry in spec.methods.items():
        base = entry.method or name
        if base in BASELINES:
            looks[name] = {"colour": "", "dash": DASHES[greys % len(DASHES)], "about": known[base]}
            greys += 1
        else:
            dash = "solid" if colours < len(COLOURS) else DASHES[colours // len(COLOURS) % len(DASHES)]
            looks[name] = {"colour": COLOURS[colours % len(COLOURS)], "dash": dash, "about": known[base]}
            colours += 1
    return looks


def _method(summary: Summary, backbone: str, name: str, results: Results, out: Path) -> dict[str, Any]:
    spec, method = summary.spec, summary.backbones[backbone][name]
    aggregate, better, profile = method.aggregate, method.better, method.profile
    return {
        "tasks": {task: _task(spec, backbone, name, task, found, results, out) for task, found in method.tasks.items()},
        "aggregate": None if aggregate is None else {rule: _estimates(aggregate[rule]) for rule in RULES},
        "partly": coverage_note(summary, backbone, name),
        "better": {rule: _estimates(better[rule]) for rule in RULES},
        "curve": None if method.curve is None else _band(method.curve),
        "profile": None if profile is None else {rule: _band(profile[rule]) for rule in RULES},
    }


def _task(
    spec: Spec, backbone: str, method: str, task: str, found: TaskSummary, results: Results, out: Path
) -> dict[str, Any]:
    scores = found.scores
    cell = next(c for c in spec.cells if (c.task, c.method, c.backbone) == (task, method, backbone))
    provenance = results.provenance(cell)
    return {
        "curve": _band(found.curve),
        "points": {rule: _numbers(scores.by(rule)) for rule in RULES},
        "iqm": {rule: _estimate(found.iqm[rule]) for rule in RULES},
        "peers": scores.final.shape[1],
        "cost": [str(len(scores.final)), *(f"{n:,.0f}" for n in (scores.steps[-1], scores.updates, scores.seconds))],
        "raw": _link(results, f"{task_folder(task)}/{method}.csv", out),
        "made": _link(results, f"{cell.name}.json", out),
        "command": str(provenance.get("command", "")),
        "commit": str(provenance.get("git_commit") or "")[:12],
    }


def _videos(results: Results, out: Path) -> list[dict[str, str]]:
    """Videos among the results, ``task/method-backbone.mp4``, embedded up to ``VIDEO_BYTES``."""
    videos, room = [], VIDEO_BYTES
    for name in results.store.names():
        if not name.endswith(".mp4") or "://" in results.store.place:
            continue
        video = Path(results.store.place, name)
        if video.is_symlink():  # it could embed a file from elsewhere
            continue
        source, size = _link(results, name, out), video.stat().st_size
        if size <= room:
            room -= size
            source = f"data:video/mp4;base64,{base64.b64encode(video.read_bytes()).decode()}"
        videos.append({"name": name.removesuffix(".mp4"), "source": source})
    return videos


def _link(results: Results, name: str, out: Path) -> str:
    """Link from the page to a file of the results."""
    if "://" in results.store.place:
        return f"{results.store.place}/{name}"
    return quote(Path(os.path.relpath(Path(results.store.place, name), out.absolute().parent)).as_posix())


def _estimate(estimate: Estimate) -> dict[str, Any]:
    return {"at": _numbers(np.array(estimate)), "text": shown(estimate)}


def _estimates(estimates: dict[str, Estimate]) -> dict[str, Any]:
    return {name: _estimate(found) for name, found in estimates.items()}


def _band(estimate: Estimate) -> list[list[float | None]]:
    return [_numbers(part) for part in estimate]


def _numbers(values: np.ndarray) -> list[float | None]:
    """Numbers rounded to five digits, enough for a chart; None for NaN, which JSON lacks."""
    return [None if np.isnan(value) else float(f"{value:.5g}") for value in np.asarray(values).ravel()]


def _part(name: str) -> str:
    return resources.files("policykd.benchmark").joinpath("page").joinpath(name).read_text(encoding="utf-8")
