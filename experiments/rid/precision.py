"""To how many bits is the decomposition of a general table solved? A bound from the dual of its convex programme.

Tables P(y, t, s) are drawn: dense, sparse, counts of 1,000 examples, and labels that both layers together decide. Needs
no data. Finished tables are kept: start it again to go on.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tyro
from tqdm import tqdm

from experiments.measurements import Measurements
from policykd.benchmark.documents import publish
from policykd.classification.measures.pid import least_informative
from policykd.cli import guarded
from policykd.core.files import write_text

SIZES = ((2, 2), (2, 5), (5, 5), (10, 5), (10, 10))
"""Labels, and clusters of either layer."""
Size = tuple[int, int, int]


def decided(generator: np.random.Generator, size: Size) -> np.ndarray:
    """A table in which t and s together decide y."""
    labels, *clusters = size
    table = np.zeros(size)
    pairs = generator.dirichlet(np.ones(np.prod(clusters))).reshape(1, *clusters)
    np.put_along_axis(table, generator.integers(labels, size=(1, *clusters)), pairs, 0)
    return table


def dirichlet(concentration: float) -> Callable[[np.random.Generator, Size], np.ndarray]:
    """Draws tables whose cells are Dirichlet distributed."""
    return lambda generator, size: generator.dirichlet(np.full(np.prod(size), concentration)).reshape(size)


def counted(generator: np.random.Generator, size: Size) -> np.ndarray:
    """Shares of 1,000 examples drawn from a table of Dirichlet 0.3."""
    return generator.multinomial(1_000, dirichlet(0.3)(generator, size).ravel()).reshape(size) / 1_000


KINDS = {"dense": dirichlet(1.0), "sparse": dirichlet(0.1), "1,000 examples": counted, "t and s decide y": decided}
KEYS, VALUES = ("table", "labels", "clusters", "seed"), ("bits",)


@dataclass(frozen=True)
class Options:
    """Bound how far the decompositions of drawn tables are from exact."""

    out: Path = Path("results/rid")
    """Folder of the raw rows and the table."""
    page: Path = Path("docs/pid.md")
    """The document that shows the table between its markers."""
    tables: int = 20
    """Drawn of each kind and size, by the seeds 0, 1, ..."""
    report: bool = False
    """Only write the table of what is there."""


def main(options: Options) -> None:
    """Solve what is missing, then write the table."""
    rows = Measurements(options.out / "precision.csv", KEYS, VALUES)
    cases = [(kind, *size) for kind in KINDS for size in SIZES]
    for kind, labels, clusters in () if options.report else tqdm(cases, unit="kind of table", disable=None):
        found = []
        for seed in rows.missing(range(options.tables), table=kind, labels=labels, clusters=clusters):
            size = labels, clusters, clusters
            bits = least_informative(KINDS[kind](np.random.default_rng((seed, *size)), size))[1]
            found.append({"table": kind, "labels": labels, "clusters": clusters, "seed": seed, "bits": bits})
        if found:
            rows.add(*found)
    text = table(rows)
    write_text(options.out / "precision.md", text)
    publish(text, options.page, "precision table")
    print(text)


def table(rows: Measurements) -> str:
    """The largest bound of each kind and size."""
    lines = ["| table | " + " | ".join(f"{y} labels, {k} x {k} clusters" for y, k in SIZES) + " |"]
    lines.append("|---|" + "---|" * len(SIZES))
    for kind in KINDS:
        bounds = (rows.values("bits", table=kind, labels=labels, clusters=clusters) for labels, clusters in SIZES)
        lines.append(f"| {kind} | " + " | ".join(f"{max(of_size):.1e}" for of_size in bounds) + " |")
    count = len({row["seed"] for row in rows.rows})
    return "\n".join(lines) + f"\n\nThe largest of {count} tables each, in bits.\n"


if __name__ == "__main__":
    guarded(lambda: main(tyro.cli(Options, args=sys.argv[1:], description=__doc__)))
