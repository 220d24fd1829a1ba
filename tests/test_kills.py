"""Command lines that are killed at random go on and end as if nothing had happened (kills.py)."""

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="forks, and reads /proc")
PROGRAM = Path(__file__).parent / "support" / "kills.py"


def _kill(*words):
    result = subprocess.run([sys.executable, str(PROGRAM), *words], capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout.splitlines()[-1]


@pytest.mark.slow
def test_twenty_kills_change_nothing():
    """Without benchmarks, whose workers take seconds to begin."""
    cases = "train-ddpg", "train-td3", "train-sac", "train-ppo", "fine_tune", "classify"
    said = _kill("--kills", "20", "--in-a-row", "4", "--cases", *cases)
    assert said == "20 kills, 20 of them of runs that ended bit-identical"


@pytest.mark.nightly
def test_two_hundred_kills_change_nothing():
    assert _kill("--kills", "200", "--seed", "1").startswith("200 kills, 200 of them")
