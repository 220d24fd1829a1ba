"""Distil a classifier into a smaller one (policykd classify)."""

import sys

from policykd.cli import main

if __name__ == "__main__":
    main(["classify", *sys.argv[1:]])
