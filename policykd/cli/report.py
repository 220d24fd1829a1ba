"""``policykd report``: tables and an HTML page of a benchmark's results."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from policykd.benchmark.documents import insert_section, read_document
from policykd.cli.options import parse
from policykd.cli.output import check_page, say
from policykd.core.errors import PolicyKDError
from policykd.core.files import write_text


@dataclass(frozen=True)
class ReportOptions:
    """Write the HTML page of a benchmark's results, or update its tables in a document."""

    results: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RESULTS")]
    """Folder of the results (or any fsspec URL)."""
    out: Path | None = None
    """The page to write, one self-contained HTML file. Default: report.html, unless --tables is given."""
    tables: Path | None = None
    """A document with markers, such as BENCHMARK.md, in which to rewrite the tables."""
    check: bool = False
    """With --tables: write nothing, and fail if the document's tables do not match the results."""


def run(arguments: Sequence[str]) -> None:
    """``policykd report``."""
    options = parse(ReportOptions, arguments, "report")
    if options.check and options.tables is None:
        raise PolicyKDError("report: --check needs the document: --tables BENCHMARK.md")
    page = None if options.out is None and options.tables is not None else options.out or Path("report.html")
    if page is not None:
        check_page("report", page, "<!doctype html>")
    if options.tables is not None and not options.tables.is_file():
        raise PolicyKDError(f"report: there is no document {options.tables}")
    from policykd.benchmark.results import Results  # imports torch
    from policykd.benchmark.statistics import summarise
    from policykd.benchmark.tables import benchmark_tables

    document = "" if options.tables is None else read_document(options.tables)
    results = Results(options.results)
    insert_section(document, results.spec().name, "")  # check first: the statistics take a while
    summary = summarise(results)
    if options.tables is not None:
        new = insert_section(document, summary.spec.name, benchmark_tables(summary))
        if options.check and document != new:
            again = shlex.join(["policykd", "report", options.results, "--tables", str(options.tables)])
            raise PolicyKDError(f"report: {options.tables} is stale: {again}")
    if page is not None:  # before the document: it may be refused
        from policykd.benchmark.report import write_page

        write_page(summary, results, page)
        say(f"page {page}, {page.stat().st_size / 1e6:.1f} MB")
    if options.tables is not None and not options.check:
        write_text(options.tables, new)
        say(f"tables {options.tables}")
