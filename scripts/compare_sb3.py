"""Ours beside Stable-Baselines3 (policykd compare)."""

import sys

from policykd.cli import main

if __name__ == "__main__":
    main(["compare", *sys.argv[1:]])
