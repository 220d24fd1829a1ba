"""What retrieval costs: latency beside a transformer student, memory of a million keys, and HNSW's recall.

    python scripts/reaugkd_cost.py         # some minutes; needs policykd[transformers,retrieval]

The student has the shape of MiniLM-L3 (three layers of width 384) and random weights, which the time does not depend
on; it reads sentences of 32 tokens, one or 32 at a time. Both are timed in turns, so that a busy machine slows both.
"""

from __future__ import annotations

import csv
import io
import itertools
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
import tyro

from policykd.agents.run_folder import versions, write_text
from policykd.benchmark.documents import publish
from policykd.classification.retrieval import Lookup, Retrieval
from policykd.classification.transformer import EMBEDDING, TextClassifier
from policykd.cli import guarded
from policykd.extras import needs
from policykd.memory import KnowledgeBase

WIDTH, LAYERS, TOKENS, CLASSES = 384, 3, 32, 2
MILLION, DIMENSIONS = 1_000_000, 128


@dataclass(frozen=True)
class Options:
    """Measure latency, memory and recall of the knowledge base."""

    keys: tuple[int, ...] = (1_000, 10_000)
    """Sizes of the memory for latency."""
    batches: tuple[int, ...] = (1, 32)
    """Sentences at a time."""
    calls: int = 300
    """Sentences timed one by one, with and without retrieval in turns; an eighth as many batches."""
    out: Path = Path("results/reaugkd")
    """Folder of the raw rows."""
    page: Path = Path("docs/methods/reaugkd.md")
    """The document that shows the table between its markers."""
    parts: tuple[Literal["latency", "memory", "recall"], ...] = ("latency", "memory", "recall")
    """What to measure."""
    child: bool = False
    """Build and query a million keys in this process, and print what it took."""


def main(options: Options) -> None:
    """Measure, write rows and table."""
    torch.set_num_threads(1)
    if options.child:
        print(json.dumps(a_million()))
        return
    options.out.mkdir(parents=True, exist_ok=True)
    if "latency" in options.parts:
        _write(options.out / "latency.csv", latency(options.keys, options.batches, options.calls))
    if "memory" in options.parts:
        command = [sys.executable, __file__, "--child"]
        found = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1])
        _write(options.out / "memory.csv", [{"what": name, "value": value} for name, value in found.items()])
    if "recall" in options.parts:
        _write(options.out / "recall.csv", recall())
    write_text(options.out / "cost.versions.json", json.dumps(versions(), indent=2) + "\n")
    table = write_report(options.out)
    publish(table, options.page, "cost table")
    print(table)


def latency(sizes: tuple[int, ...], batches: tuple[int, ...], calls: int) -> list[dict[str, Any]]:
    """Median time of a batch without retrieval and with it, per number of keys, index and sentences at a time."""
    student = _student()
    rows = []
    for keys, index, batch in itertools.product(sizes, ("exact", "hnsw"), batches):
        count = calls if batch == 1 else max(10, calls // 8)
        sentences = torch.randint(5, 1000, (count, batch, 2, TOKENS))
        sentences[:, :, 1] = 0
        memory = _random_memory(keys, WIDTH, CLASSES, index)
        retrieval = Retrieval(student, memory, EMBEDDING, Lookup(10, 0.1, 0.5)).eval()
        retrieval(sentences[0])  # builds the graph
        plain, with_memory, more = _in_turns(student, retrieval, sentences)
        times = {"student_ms": round(plain, 3), "with_retrieval_ms": round(with_memory, 3), "overhead": round(more, 4)}
        rows.append({"index": index, "keys": keys, "sentences": batch, **times, "calls": count})
    return rows


@torch.no_grad()
def _in_turns(
    first: Callable[..., Any], second: Callable[..., Any], inputs: torch.Tensor
) -> tuple[float, float, float]:
    """Median ms of either, and what the second takes more, as the ratio of the medians minus 1."""
    times: list[list[float]] = [[], []]
    for each in inputs:
        for which, call in enumerate((first, second)):
            started = time.process_time()  # of this process alone: the machine may do other work
            call(each)
            times[which].append(1000 * (time.process_time() - started))
    plain, more = (statistics.median(column) for column in times)
    return plain, more, more / plain - 1


def _student() -> TextClassifier:
    """A student of MiniLM's shape."""
    transformers = needs("transformers", "transformers")
    config = transformers.BertConfig(
        hidden_size=WIDTH, num_hidden_layers=LAYERS, num_attention_heads=12, intermediate_size=4 * WIDTH
    )
    torch.manual_seed(0)
    return TextClassifier(transformers.BertForSequenceClassification(config), 0).eval()


def _random_memory(keys: int, width: int, classes: int, index: str) -> KnowledgeBase:
    generator = torch.Generator().manual_seed(0)
    memory = KnowledgeBase(width, classes, "random", index=index)  # type: ignore[arg-type]
    memory.add(torch.randn(keys, width, generator=generator), torch.full((keys, classes), 1 / classes))
    return memory


def a_million() -> dict[str, float]:
    """Build, save, map and query a memory of a million keys; peak memory of this process."""
    import resource

    started = time.perf_counter()
    memory = _random_memory(MILLION, DIMENSIONS, 10, "exact")
    built = time.perf_counter() - started
    queries = torch.randn(100, DIMENSIONS, generator=torch.Generator().manual_seed(1))
    started = time.perf_counter()
    found = memory.search(queries, 10)
    asked = time.perf_counter() - started
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "memory.safetensors"
        memory.save(path)
        del memory
        again = KnowledgeBase.load(path, "random")
        assert torch.equal(again.search(queries, 10).rows, found.rows)
        size = again.nbytes
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000  # kB on Linux
    return {
        "keys": MILLION,
        "dimensions": DIMENSIONS,
        "megabytes": size / 1e6,
        "build_s": round(built, 2),
        "query_ms": round(10 * asked, 2),
        "peak_mb": round(peak, 1),
    }


def recall() -> list[dict[str, Any]]:
    """Share of the exact ten neighbours that HNSW finds among 100,000 keys: spread out, and in clusters of classes."""
    rows = []
    for name, spread in (("clusters", 0.7), ("uniform", None)):
        generator = torch.Generator().manual_seed(0)
        keys, queries = (torch.randn(n, DIMENSIONS, generator=generator) for n in (100_000, 500))
        if spread is not None:
            centres = torch.randn(200, DIMENSIONS, generator=generator)
            keys, queries = (centres[torch.arange(len(x)) % 200] + spread * x for x in (keys, queries))
        found = []
        for index in ("exact", "hnsw"):
            memory = KnowledgeBase(DIMENSIONS, 1, name, index=index)
            memory.add(keys, torch.ones(len(keys), 1))
            found.append(memory.search(queries, 10).rows)
        share = (found[0][:, :, None] == found[1][:, None]).any(2).double().mean()
        rows.append({"data": name, "keys": len(keys), "recall_at_10": round(float(share), 4)})
    return rows


def write_report(out: Path) -> str:
    """The table of what has been measured."""
    lines = [
        "| keys | index | sentences at a time | student, ms | with retrieval, ms | more |",
        "|---:|---|---:|---:|---:|---:|",
    ]
    for row in _read(out / "latency.csv"):
        more = f"{100 * float(row['overhead']):.1f} %"
        times = f"{row['student_ms']} | {row['with_retrieval_ms']}"
        lines.append(f"| {int(row['keys']):,} | {row['index']} | {row['sentences']} | {times} | {more} |")
    million = {row["what"]: float(row["value"]) for row in _read(out / "memory.csv")}
    if million:
        lines += [
            "",
            f"A million keys of 128 numbers: {million['megabytes']:.0f} MB; built, searched, saved, mapped and "
            f"searched again with a peak of {million['peak_mb']:.0f} MB in the process; "
            f"{million['query_ms']:.0f} ms per query of a hundred (wall clock, other work beside).",
        ]
    shares = {row["data"]: float(row["recall_at_10"]) for row in _read(out / "recall.csv")}
    if shares:
        lines += [
            "",
            f"HNSW's recall at 10 among 100,000 keys: {shares['clusters']:.3f} in clusters, "
            f"{shares['uniform']:.3f} for directions drawn uniformly.",
        ]
    return "\n".join(lines) + "\n"


def _write(path: Path, rows: list[dict[str, Any]]) -> None:
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(path, text.getvalue())


def _read(path: Path) -> list[dict[str, str]]:
    """Rows of a part, none where it has not been measured."""
    if not path.exists():
        return []
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


if __name__ == "__main__":
    guarded(lambda: main(tyro.cli(Options)))
