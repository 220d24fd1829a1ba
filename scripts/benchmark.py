"""Run a benchmark, such as benchmarks/dpd_mujoco.yaml (policykd benchmark)."""

import sys

from policykd.cli import main

if __name__ == "__main__":
    main(["benchmark", *sys.argv[1:]])
