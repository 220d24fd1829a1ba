"""``policykd cooperate``: let classifiers of several owners teach one another."""

from __future__ import annotations

from collections.abc import Sequence

from policykd.cli.cooperate_options import cooperate_options


def run(arguments: Sequence[str]) -> None:
    """``policykd cooperate``; torch is imported once the words are understood."""
    options = cooperate_options(arguments)
    from policykd.cli.cooperate_run import cooperate

    cooperate(options)
