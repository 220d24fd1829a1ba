"""Train peers that learn from one another (policykd train)."""

import sys

from policykd.cli import main

if __name__ == "__main__":
    main(["train", *sys.argv[1:]])
