"""``policykd text``: distil a transformer that classifies text into one of fewer layers."""

from __future__ import annotations

from collections.abc import Sequence

from policykd.cli.text_options import text_options


def run(arguments: Sequence[str]) -> None:
    """``policykd text``; torch is imported once the words are understood."""
    options = text_options(arguments)
    from policykd.cli.text_run import distil

    distil(options)
