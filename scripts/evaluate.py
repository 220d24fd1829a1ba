"""Evaluate the learners of a run (policykd evaluate)."""

import sys

from policykd.cli import main

if __name__ == "__main__":
    main(["evaluate", *sys.argv[1:]])
