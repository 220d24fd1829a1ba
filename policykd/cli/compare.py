"""``policykd compare``: policykd against Stable-Baselines3."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from policykd.benchmark.options import CompareOptions
from policykd.cli.options import parse
from policykd.cli.output import say


def run(arguments: Sequence[str]) -> None:
    """``policykd compare``."""
    options = parse(CompareOptions, arguments, "compare")
    from policykd.benchmark.compare import compare  # imports torch

    _, text = compare(options)
    say(f"\n{text}")
    say(f"picture {options.out / 'learning_curves.png'}")
    intervals = "with intervals" if options.seeds > 1 else "page"  # one seed has none
    places = str(options.out / "results"), "--out", str(options.out / "report.html")
    say(f"{intervals}: policykd report {shlex.join(places)}")
