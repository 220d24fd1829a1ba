"""``policykd distill``: students of a frozen teacher, of one size or of several."""

from __future__ import annotations

from collections.abc import Sequence

from policykd.cli.distill_options import distill_options


def run(arguments: Sequence[str]) -> None:
    """``policykd distill``; torch is imported once the words are understood."""
    options = distill_options(arguments)
    from policykd.cli.distill_run import distill

    distill(options)
