"""The answers to the declared questions, from the raw rows: a table for BENCHMARK.md and a picture each.

    python -m experiments.peers.answers

P is the probability that a run of the first side returns more than one of the second, averaged over tasks; its interval
is a stratified bootstrap over seeds, and p (two-sided, from the same bootstrap) is corrected by Holm's method within
each question.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from experiments.peers.pictures import strip_plot
from experiments.peers.questions import BETTER, FOUR, NAMES, QUESTIONS
from experiments.peers.report import rows
from policykd.benchmark.bootstrap import Estimate, interval, iqm, probability_of_improvement
from policykd.benchmark.spec_file import load_spec
from policykd.benchmark.statistics import normalise
from policykd.cli import guarded
from policykd.core.files import write_text

ROOT = Path(__file__).parents[2]
RESAMPLES = 2_000


@dataclass(frozen=True)
class Answer:
    """One comparison."""

    question: str
    ours: str
    theirs: str
    tasks: tuple[str, ...]
    seeds: tuple[int, int]
    iqms: tuple[tuple[float, float], ...]
    """Interquartile means of both sides, task by task."""
    better: Estimate
    p: float
    """Two-sided, corrected by Holm's method within the question."""


def answers() -> list[Answer]:
    """Every comparison whose two sides share a finished task."""
    found: list[Answer] = []
    for name, question in QUESTIONS.items():
        if (table := question_rows(question)) is None:
            continue
        raw = list(_compared(name, table, question["pairs"]))
        corrected = holm([answer.p for answer in raw])
        found += [Answer(**{**vars(answer), "p": p}) for answer, p in zip(raw, corrected, strict=True)]
    return found


def question_rows(question: Mapping[str, Any]) -> pd.DataFrame | None:
    """The rows of a question, those of ``optuna_control`` with them; None where no cell is through."""
    folder = ROOT / question["results"]
    if not list(folder.glob("*/*.json")):
        return None
    found = pd.concat([rows(folder), optuna_rows()])
    return found[found["backbone"] == question.get("backbone", "sac")]


def optuna_rows() -> pd.DataFrame:
    """The rows of ``optuna_control``, as those of a method of its own."""
    files = sorted((ROOT / "results" / "peers_optuna").glob("*.csv"))
    parts = [pd.read_csv(file).assign(task=file.stem, method="optuna", phase="final", backbone="sac") for file in files]
    return pd.concat(parts) if parts else pd.DataFrame()


def _compared(name: str, table: pd.DataFrame, pairs: Sequence[Any]) -> Iterator[Answer]:
    for ours, theirs in pairs:
        sides = [_scores(table, *side) for side in (ours, theirs)]
        whole = [_whole(side) for side in sides]
        tasks = tuple(task for task in whole[0] if task in whole[1])
        if not tasks or min(len(side[task]) for side in sides for task in tasks) < 2:  # one run tells no interval
            continue
        pair = [np.stack([side[task] for task in tasks], axis=1) for side in sides]
        chances = interval(pair, lambda x, y: np.atleast_1d(probability_of_improvement(x, y)), RESAMPLES)
        yield Answer(
            name,
            _named(*ours),
            _named(*theirs),
            tasks,
            (len(pair[0]), len(pair[1])),
            tuple((float(iqm(pair[0][:, t])), float(iqm(pair[1][:, t]))) for t in range(len(tasks))),
            Estimate(*(float(np.ravel(part)[0]) for part in chances)),
            _p(pair),
        )


def _whole(side: Mapping[str, np.ndarray]) -> list[str]:
    """The tasks of a side that have all its seeds; Optuna's are added one by one."""
    most = max(map(len, side.values()), default=0)
    return [task for task, returns in side.items() if len(returns) == most]


def hindsight() -> str:
    """What a group of four keeps of the best rate alone, where that is chosen afterwards, by the same rows."""
    spec, folder = load_spec(ROOT / "experiments/peers/tuning.yaml"), ROOT / QUESTIONS["Q2"]["results"]
    found = rows(folder)
    names = [name for name in spec.methods if name.startswith("single_")]
    sides = [_scores(found, FOUR, "trained"), *(_scores(found, name, "final") for name in names)]
    tasks = [task for task in sides[0] if all(task in side for side in sides)]
    scores = [np.stack([normalise(side[task], spec.tasks[task].reference) for task in tasks], axis=1) for side in sides]

    def of_each_task(ours: np.ndarray, *rates: np.ndarray) -> np.ndarray:
        columns = [[scores[:, t] for scores in rates] for t in range(len(tasks))]
        best = [max(column, key=lambda scores: float(iqm(scores))) for column in columns]
        return np.atleast_1d(iqm(ours.ravel()) / iqm(np.concatenate(best)))

    def of_all_tasks(ours: np.ndarray, *rates: np.ndarray) -> np.ndarray:
        return np.atleast_1d(iqm(ours.ravel()) / max(float(iqm(scores.ravel())) for scores in rates))

    shown = []
    for statistic in (of_each_task, of_all_tasks):
        value, low, high = (float(np.ravel(part)[0]) for part in interval(scores, statistic, RESAMPLES))
        shown.append(f"{value:.2f} [{low:.2f}, {high:.2f}]")
    return (
        f"Of the best rate in hindsight `{FOUR}` (best in training) keeps {shown[0]} where that is chosen for "
        f"every task anew, and {shown[1]} of the one rate that is best over all: interquartile means of normalised "
        f"returns over seeds and {len(tasks)} tasks ({', '.join(tasks)})."
    )


def _named(method: str, way: str) -> str:
    single = method.startswith("single") or method in ("sb3", "optuna")
    return method if single else f"{method}, {NAMES[way]}"


def _scores(table: pd.DataFrame, method: str, way: str) -> dict[str, np.ndarray]:
    """The return of every group ``(S,)``, by task: the mean of its peers where ``way`` is "final"."""
    part = table[(table["method"] == method) & (table["phase"] == ("final" if way == BETTER else way))]
    of_group = "max" if way == BETTER else "mean"
    return {
        str(task): group.groupby("seed")["return"].agg(of_group).to_numpy()
        for task, group in part.groupby("task", sort=False)
    }


def _p(pair: list[np.ndarray]) -> float:
    """Twice the smaller part of resampled P that lies on either side of one half."""
    rng = np.random.default_rng(0)
    drawn = []
    for _ in range(RESAMPLES):
        resampled = []
        for side in pair:
            index = rng.integers(len(side), size=side.shape)
            resampled.append(np.take_along_axis(side, index, axis=0))
        drawn.append(float(probability_of_improvement(*resampled)))
    below, above = float(np.mean(np.array(drawn) <= 0.5)), float(np.mean(np.array(drawn) >= 0.5))
    return min(1.0, 2 * max(min(below, above), 1 / RESAMPLES))


def holm(p: Sequence[float]) -> list[float]:
    """P-values corrected for their number (Holm 1979), in the order given."""
    order, corrected, least = np.argsort(p), [0.0] * len(p), 0.0
    for rank, index in enumerate(order):
        least = max(least, min(1.0, (len(p) - rank) * p[index]))
        corrected[index] = least
    return corrected


def table(found: Sequence[Answer]) -> str:
    """Markdown, question by question."""
    lines: list[str] = []
    for name, question in QUESTIONS.items():
        lines += [f"**{name}. {question['question']}**", ""]
        mine = [answer for answer in found if answer.question == name]
        if not mine:
            lines += [f"No answer yet: `{question['results']}` has no rows of both sides.", ""]
            continue
        lines.append("| ours | against | P(better) [95 %] | p, Holm | seeds | IQM of returns, ours / theirs |")
        lines.append("|---|---|---|---|---|---|")
        for a in mine:
            each = "; ".join(f"{task} {x:,.0f} / {y:,.0f}" for task, (x, y) in zip(a.tasks, a.iqms, strict=True))
            chance = f"{a.better.value:.2f} [{a.better.low:.2f}, {a.better.high:.2f}]"
            lines.append(f"| {a.ours} | {a.theirs} | {chance} | {a.p:.3f} | {a.seeds[0]} / {a.seeds[1]} | {each} |")
        lines += ["", *([hindsight(), ""] if name == "Q2" else [])]
        lines += [f"![{name}: final returns of every seed](results/{picture(name)})", ""]
    return "\n".join(lines)


def pictures() -> None:
    """The returns behind every question that has rows of both sides (``results/peers_q1.png`` ...)."""
    for name, question in QUESTIONS.items():
        if (table := question_rows(question)) is None:
            continue
        sides = [side for pair in question["pairs"] for side in reversed(pair)]
        returns = {side: _scores(table, *side) for side in sides}
        ours = {pair[0] for pair in question["pairs"]}
        names = {(row, way): _named(row, way) for row, way in sorted(sides, key=lambda s: (s[1], s in ours))}
        strip_plot(returns, names, ours, ROOT / "results" / picture(name))


def picture(question: str) -> str:
    """Name of a question's picture."""
    return f"peers_{question.lower().replace(' ', '')}.png"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tables", type=Path, default=ROOT / "BENCHMARK.md")
    path = parser.parse_args().tables
    found = answers()
    text = table(found)
    write_text(path, inserted(path.read_text(encoding="utf-8"), text))
    pictures()
    print(text)


BEGIN, END = "<!-- peers: begin -->", "<!-- peers: end -->"


def inserted(page: str, text: str) -> str:
    """The page with the text between its markers."""
    before, _, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not end:
        raise SystemExit(f"the page has no {BEGIN} ... {END}")
    return f"{before}{BEGIN}\n{text}{END}{after}"


if __name__ == "__main__":
    guarded(main)
