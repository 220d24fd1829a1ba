"""``policykd classify``: distil a classifier into a smaller one."""

from __future__ import annotations

from collections.abc import Sequence

from policykd.cli.classify_options import classify_options


def run(arguments: Sequence[str]) -> None:
    """``policykd classify``; torch is imported once the words are understood."""
    options = classify_options(arguments)
    from policykd.cli.classify_run import classify

    classify(options)
