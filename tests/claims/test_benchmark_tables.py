"""Committed results of benchmarks: the tables of BENCHMARK.md are those of the rows."""

from pathlib import Path

import pytest

from policykd.cli import main

ROOT = Path(__file__).parents[2]


MATRICES = sorted(file.parent for file in ROOT.glob("results/*/spec.yaml"))
PAGES = {"parity_choices": "docs/parity.md"}
LARGE = "dpd_mujoco"  # its bootstraps take as long as those of all others, and it is not added to


@pytest.mark.parametrize(
    "results",
    [pytest.param(m, marks=[pytest.mark.nightly] if m.name == LARGE else [], id=m.name) for m in MATRICES],
)
def test_the_tables_of_this_repository_are_those_of_its_results(results):
    main(["report", str(results), "--tables", str(ROOT / PAGES.get(results.name, "BENCHMARK.md")), "--check"])
