"""Train small students of a frozen teacher (policykd distill)."""

import sys

from policykd.cli import main

if __name__ == "__main__":
    main(["distill", *sys.argv[1:]])
