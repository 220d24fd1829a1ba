"""Committed results of benchmarks: the tables of BENCHMARK.md are those of the rows."""

from pathlib import Path

import pytest

from policykd.cli import main

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("results", sorted(ROOT.glob("results/*/spec.yaml")), ids=lambda file: file.parent.name)
def test_the_tables_of_this_repository_are_those_of_its_results(results):
    main(["report", str(results.parent), "--tables", str(ROOT / "BENCHMARK.md"), "--check"])
