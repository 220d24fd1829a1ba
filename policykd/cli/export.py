"""``policykd export``: a learner of a run in the formats that people deploy."""

from __future__ import annotations

from collections.abc import Sequence

from policykd.cli.export_options import export_options


def run(arguments: Sequence[str]) -> None:
    """``policykd export``; torch is imported once the words are understood."""
    options = export_options(arguments)
    from policykd.cli.export_run import export

    export(options)
