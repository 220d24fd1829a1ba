"""The nearest neighbours of GLUE's texts by their words, beside what ReAugKD's memory retrieves.

    python -m experiments.reaugkd.glue_neighbours --glue FOLDER    # or set POLICYKD_GLUE

The rows are those of ``experiments.reaugkd.glue``, and so is the length of a key after the reduction. K is chosen on
the validation texts. Nothing is trained, and nothing is random but the reduction.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

import tyro
from sklearn.decomposition import TruncatedSVD
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.neighbors import KNeighborsClassifier

from experiments.measurements import Measurements
from experiments.reaugkd.glue import COUNTS, LIMIT, TASKS, glue_folder
from policykd.benchmark.documents import publish
from policykd.classification.data.text import Texts, class_metrics, read_texts, split
from policykd.cli import guarded
from policykd.core.files import write_text

KEY = 384
"""Length of the students' embeddings, ReAugKD's keys."""
TITLES = {"words": "TF-IDF of words and pairs of words", "reduced": f"the same, by SVD {KEY} numbers"}


@dataclass(frozen=True)
class Options:
    """Classify GLUE's texts by their nearest neighbours."""

    glue: Path | None = None
    """Folder of the tasks' folders. Default: the environment variable POLICYKD_GLUE."""
    out: Path = Path("results/reaugkd")
    """Folder of the rows and the table."""
    page: Path = Path("docs/methods/reaugkd.md")
    """The document that shows the table between its markers."""
    report: bool = False
    """Only write the table of what is there."""


def main(options: Options) -> None:
    """Measure what is missing, then write the table."""
    rows = open_rows(options.out)
    for name in () if options.report else TASKS:
        if not all(rows.has(task=name, keys=keys) for keys in TITLES):
            known, test = read_texts(glue_folder(options.glue) / name)
            rows.add(*one_task(name, *split(known, min(LIMIT, len(known.labels)), 0.1, 0), test))
    text = table(rows)
    write_text(options.out / "glue_neighbours.md", text)
    publish(text, options.page, "glue neighbours table")
    print(text)


def open_rows(out: Path) -> Measurements:
    """What has been measured, in a folder."""
    return Measurements(out / "glue_neighbours.csv", ("task", "keys", "seed"), ("k", "validation", "test"))


def one_task(name: str, train: Texts, validation: Texts, test: Texts) -> list[dict[str, object]]:
    """The score on the test texts with each kind of key, K chosen on the validation texts."""
    words = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True).fit(joined(train))
    known = [words.transform(joined(part)) for part in (train, validation, test)]
    reduction = TruncatedSVD(KEY, random_state=0).fit(known[0])
    found = []
    for keys, parts in (("words", known), ("reduced", [reduction.transform(part) for part in known])):
        scores = dict[int, float]()
        for k in COUNTS:
            neighbours = KNeighborsClassifier(k, metric="cosine", algorithm="brute").fit(parts[0], train.labels)
            scores[k] = class_metrics(neighbours.predict(parts[1]), validation.labels.tolist())[TASKS[name]]
        best = max(COUNTS, key=scores.__getitem__)
        neighbours = KNeighborsClassifier(best, metric="cosine", algorithm="brute").fit(parts[0], train.labels)
        tested = class_metrics(neighbours.predict(parts[2]), test.labels.tolist())[TASKS[name]]
        found.append({"task": name, "keys": keys, "seed": 0, "k": best, "validation": scores[best], "test": tested})
    return found


def joined(texts: Texts) -> list[str]:
    """Both sentences of a pair as one text."""
    second = texts.second or [""] * len(texts.first)
    return [" ".join(pair) for pair in zip(texts.first, second, strict=True)]


def table(rows: Measurements) -> str:
    """The score of each task by kind of key, with the chosen K."""
    lines = ["| nearest neighbours by | " + " | ".join(f"{task}, {measure}" for task, measure in TASKS.items()) + " |"]
    lines.append("|---|" + "---|" * len(TASKS))
    for keys, title in TITLES.items():
        found = [rows.values(name, task=task, keys=keys).item() for task in TASKS for name in ("test", "k")]
        cells = [f"{score:.3f} (K {k:.0f})" for score, k in zip(found[::2], found[1::2], strict=True)]
        lines.append(f"| {title} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    guarded(lambda: main(tyro.cli(Options, args=sys.argv[1:], description=__doc__)))
