"""What retrieval costs: latency beside a transformer student, memory of a million keys, and HNSW's recall.

    python -m experiments.reaugkd.cost         # some minutes; needs policykd[transformers,retrieval]

The students have the shapes of MiniLM's first two or three layers (width 384) and of the paper's student (six of 768),
and random weights, which the time does not depend on; they read sentences of 32 tokens, one or 32 at a time. K is 10.
With and without retrieval are timed in turns, so that a busy machine slows both.
"""

from __future__ import annotations

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
from typing import Any, Literal, get_args

import pandas as pd
import torch
import tyro

from policykd.benchmark.documents import publish
from policykd.classification.retrieval import Lookup, Retrieval
from policykd.classification.transformer import EMBEDDING, TextClassifier
from policykd.cli import guarded
from policykd.core.extras import import_extra
from policykd.core.files import versions, write_text
from policykd.memory import KnowledgeBase
from policykd.memory.knowledge_base import Index

STUDENTS = ((2, 384), (3, 384), (6, 768))
"""Layers and width."""
TOKENS, CLASSES = 32, 2
INDEXES: tuple[Index, ...] = get_args(Index)
EFFORTS = (128, 256, 512, 1024)
"""Of HNSW's search."""
DIRECTIONS = {"clusters": (200, 0.7), "points": (2, 0.1), "uniform": (0, 1.0)}
"""Keys -> classes and spread about them; "points" are two classes whose keys have cosines of 0.99, as after stage 1."""
MILLION, DIMENSIONS = 1_000_000, 128


@dataclass(frozen=True)
class Options:
    """Measure latency, memory and recall of the knowledge base."""

    keys: tuple[int, ...] = (10_000,)
    """Sizes of the memory for latency."""
    batches: tuple[int, ...] = (1, 32)
    """Sentences at a time."""
    calls: int = 200
    """Sentences timed one by one, with and without retrieval in turns; a sixteenth as many batches."""
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
        print(json.dumps(million_keys()))
        return
    options.out.mkdir(parents=True, exist_ok=True)
    if "latency" in options.parts:
        _write(options.out / "latency.csv", latency(options.keys, options.batches, options.calls))
    if "memory" in options.parts:
        command = [sys.executable, "-m", "experiments.reaugkd.cost", "--child"]
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
    rows = []
    for layers, width in STUDENTS:
        student = _student(layers, width)
        for keys, batch, index in itertools.product(sizes, batches, INDEXES):
            count = calls if batch == 1 else calls // 16
            sentences = torch.randint(5, 1000, (count, batch, 2, TOKENS))
            sentences[:, :, 1] = 0
            memory = _random_memory(keys, width, CLASSES, index)
            retrieval = Retrieval(student, memory, EMBEDDING, Lookup(10, 0.1, 0.5)).eval()
            retrieval(sentences[0])  # builds what the index needs
            plain, more, overhead = _in_turns(student, retrieval, sentences)
            times = {"student_ms": round(plain, 3), "with_retrieval_ms": round(more, 3), "overhead": round(overhead, 4)}
            shape = {"layers": layers, "width": width, "keys": keys, "sentences": batch, "index": index}
            rows.append({**shape, **times, "calls": count})
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


def _student(layers: int, width: int) -> TextClassifier:
    """A student of BERT's shape."""
    transformers = import_extra("transformers", "transformers")
    config = transformers.BertConfig(
        hidden_size=width, num_hidden_layers=layers, num_attention_heads=12, intermediate_size=4 * width
    )
    torch.manual_seed(0)
    return TextClassifier(transformers.BertForSequenceClassification(config), 0).eval()


def _random_memory(keys: int, width: int, classes: int, index: Index) -> KnowledgeBase:
    generator = torch.Generator().manual_seed(0)
    memory = KnowledgeBase(width, classes, "random", index=index)
    memory.add(torch.randn(keys, width, generator=generator), torch.full((keys, classes), 1 / classes))
    return memory


def million_keys() -> dict[str, float]:
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
        del again
        scan = KnowledgeBase.load(path, "random", index="int8")
        scan.search(queries[:1], 10)  # makes the 8-bit copy
        started = time.perf_counter()
        assert torch.equal(scan.search(queries, 10).rows, found.rows)
        scanned = time.perf_counter() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000  # kB on Linux
    return {
        "keys": MILLION,
        "dimensions": DIMENSIONS,
        "megabytes": size / 1e6,
        "build_s": round(built, 2),
        "query_ms": round(10 * asked, 2),
        "query_int8_ms": round(10 * scanned, 2),
        "peak_mb": round(peak, 1),
    }


def recall() -> list[dict[str, Any]]:
    """Of the exact ten neighbours among 100,000 keys: the share found, what else is less similar, a query's time."""
    rows = []
    for name in DIRECTIONS:
        keys, queries = _directions(name)
        expected = None
        for index in INDEXES:
            memory = KnowledgeBase(DIMENSIONS, 1, name, index=index)
            memory.add(keys, torch.ones(len(keys), 1))
            for effort in EFFORTS if index == "hnsw" else (0,):
                memory.effort = effort
                found = memory.search(queries, 10)
                expected = expected or found
                share = (expected.rows[:, :, None] == found.rows[:, None]).any(2).double().mean()
                less = (expected.similarities - found.similarities).mean()
                facts = {"data": name, "keys": len(keys), "index": index, "effort": effort}
                facts |= {"recall_at_10": round(float(share), 4), "less_similar": round(float(less), 5)}
                rows.append({**facts, "query_ms": _one_by_one(memory, queries[:200])})
    return rows


def _directions(name: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Keys and queries: spread out as far as can be, or around the directions of some classes."""
    generator = torch.Generator().manual_seed(0)
    keys, queries = (torch.randn(n, DIMENSIONS, generator=generator) for n in (100_000, 500))
    if name != "uniform":
        classes, spread = DIRECTIONS[name]
        centres = torch.randn(classes, DIMENSIONS, generator=generator)
        keys, queries = (centres[torch.arange(len(x)) % classes] + spread * x for x in (keys, queries))
    return keys, queries


def _one_by_one(memory: KnowledgeBase, queries: torch.Tensor) -> float:
    """Median ms of processor time of a query alone."""
    times = []
    for query in queries:
        started = time.process_time()
        memory.search(query[None], 10)
        times.append(1000 * (time.process_time() - started))
    return round(statistics.median(times), 3)


def write_report(out: Path) -> str:
    """The tables of what has been measured."""
    lines = [
        "| student, layers x width | keys | sentences at a time | student, ms | " + " | ".join(INDEXES) + " |",
        "|---|---:|---:|---:|" + "---:|" * len(INDEXES),
    ]
    latencies = pd.read_csv(out / "latency.csv")
    for (layers, width, keys, sentences), found in latencies.groupby(["layers", "width", "keys", "sentences"]):
        more = found.set_index("index")["overhead"]
        cells = " | ".join(f"{100 * more[index]:.1f} %" for index in INDEXES)
        lines.append(f"| {layers} x {width} | {keys:,} | {sentences} | {found['student_ms'].median():.1f} | {cells} |")
    million = pd.read_csv(out / "memory.csv").set_index("what")["value"]
    lines += [
        "",
        f"A million keys of 128 numbers: {million['megabytes']:.0f} MB; built, searched, saved, mapped and searched "
        f"again by both ways with a peak of {million['peak_mb']:.0f} MB in the process; {million['query_ms']:.0f} ms "
        f'per query of a hundred, {million["query_int8_ms"]:.0f} ms with "int8" (wall clock, other work beside).',
        "",
        "| 100,000 keys | index | efSearch | recall at 10 | less similar by | ms per query alone |",
        "|---|---|---:|---:|---:|---:|",
    ]
    for row in pd.read_csv(out / "recall.csv").to_dict("records"):
        shown = f"{row['recall_at_10']:.4f} | {row['less_similar']:.5f} | {row['query_ms']:.2f}"
        lines.append(f"| {row['data']} | {row['index']} | {row['effort'] or ''} | {shown} |")
    return "\n".join(lines) + "\n"


def _write(path: Path, rows: list[dict[str, Any]]) -> None:
    write_text(path, pd.DataFrame(rows, dtype=object).to_csv(index=False, lineterminator="\n"))


if __name__ == "__main__":
    guarded(lambda: main(tyro.cli(Options)))
