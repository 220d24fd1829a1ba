"""``policykd train``: groups of peers that learn from one another."""

from __future__ import annotations

from collections.abc import Sequence

from policykd.cli.train_options import train_options


def run(arguments: Sequence[str]) -> None:
    """``policykd train``; torch is imported once the words are understood."""
    options = train_options(arguments)
    from policykd.cli.train_run import train

    train(options)
