"""``policykd benchmark``: run the missing cells of a benchmark."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from policykd.benchmark.options import MatrixOptions
from policykd.cli.options import parse
from policykd.cli.output import say
from policykd.core import plugins
from policykd.core.errors import plural


@dataclass(frozen=True)
class BenchmarkOptions:
    """Run a benchmark: finished cells are skipped, interrupted ones resume."""

    spec: tyro.conf.Positional[Path]
    """The benchmark's file (YAML); see docs/benchmark.md."""
    plan: bool = False
    """Only print which cells are finished and which are missing."""
    matrix: Annotated[MatrixOptions, tyro.conf.OmitArgPrefixes] = field(default_factory=MatrixOptions)


def run(arguments: Sequence[str]) -> None:
    """``policykd benchmark``; the exit status is 1 if a cell failed."""
    options = parse(BenchmarkOptions, arguments, "benchmark")
    from policykd.benchmark.matrix import plan, run_matrix  # imports torch
    from policykd.benchmark.results import Results
    from policykd.benchmark.spec_file import load_spec

    spec = load_spec(options.spec, options.matrix.env)
    out = options.matrix.out or f"results/{spec.name}"
    if options.plan:
        planned = plan(spec, Results(out), options.matrix.only)
        for cell in planned.cells:
            state = "done   " if cell.name in planned.done else "missing"
            say(f"{state} {cell.name}, {plural(len(cell.seeds), 'seed')}")
        say(f"{len(planned.done)} of {plural(len(planned.cells), 'cell')} done")
        return
    failed = run_matrix(options.spec, options.matrix)
    say(f"results {out}   ({plugins.command(f'report {shlex.quote(out)}')})")
    if failed:
        say(f"{plural(len(failed), 'cell')} failed: {', '.join(failed)}")
        say(f"see {out}/*/*.failed.txt for the reasons; run it again to retry")
        sys.exit(1)
