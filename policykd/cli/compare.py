"""``policykd compare``: ours beside Stable-Baselines3."""

from __future__ import annotations

from collections.abc import Sequence

from policykd.benchmark.compare import CompareOptions, compare
from policykd.benchmark.parity import ParityOptions, parity
from policykd.cli.options import parse
from policykd.cli.output import say


def run(arguments: Sequence[str]) -> None:
    """``policykd compare``; with --parity every backbone beside SB3's, alone, on several tasks and seeds."""
    if "--parity" in arguments:
        rest = [word for word in arguments if word != "--parity"]
        say(parity(parse(ParityOptions, rest, "compare --parity")))
        return
    options = parse(CompareOptions, arguments, "compare")
    _, text = compare(options)
    say("\n" + text)
    say(f"picture {options.out / 'learning_curves.png'}, raw returns {options.out / 'returns.csv'}")
