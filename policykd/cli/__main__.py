"""``python -m policykd.cli``: the same as ``policykd``."""

from policykd.cli import main

main()
