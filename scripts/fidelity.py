"""How like its teacher is the student of a finished run (policykd fidelity)."""

import sys

from policykd.cli import main

if __name__ == "__main__":
    main(["fidelity", *sys.argv[1:]])
