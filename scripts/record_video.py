"""Record a learner's episode (policykd video)."""

import sys

from policykd.cli import main

if __name__ == "__main__":
    main(["video", *sys.argv[1:]])
