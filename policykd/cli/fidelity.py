"""``policykd fidelity``: how alike a student and its teacher are, classifier or policy; or the peers of a run."""

from __future__ import annotations

from collections.abc import Sequence

from policykd.cli.fidelity_options import fidelity_options


def run(arguments: Sequence[str]) -> None:
    """``policykd fidelity``; torch is imported once the words are understood."""
    options = fidelity_options(arguments)
    from policykd.cli.fidelity_run import compare

    compare(options)
