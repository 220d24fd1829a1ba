"""What is measured: sizes of networks and groups, and the rivals that are installed."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path

from policykd import native

WARM_UP = {"ddpg": 300, "td3": 300, "sac": 300, "ppo": 2_048}
"""Steps of a learner before measuring; with PPO one rollout, so that measurements hold whole ones."""


@dataclass(frozen=True)
class Case:
    """One way of running ours."""

    name: str
    groups: int
    width: int
    batch_size: int
    compile: bool
    target: str
    """What the project set out to reach against SB3 with the same networks and batch."""
    precision: native.Precision = "float32"
    """Of the products between hidden layers."""


CASES = (
    Case("2 learners, compiled", 1, 64, 64, True, "8x in all"),
    Case("2 learners, eager", 1, 64, 64, False, "3x in all"),
    Case("20 learners, compiled", 10, 64, 64, True, "10x in all"),
    Case("2 learners, compiled", 1, 256, 256, True, "1.3x per learner"),
    Case("2 learners, eager", 1, 256, 256, False, "1.3x per learner"),
    Case("2 learners, compiled, bfloat16", 1, 256, 256, True, "1.3x per learner", "bfloat16"),
)
PPO_CASES = (
    Case("2 learners, compiled", 1, 64, 64, True, "4x in all"),
    Case("2 learners, eager", 1, 64, 64, False, "4x in all"),
    Case("20 learners, eager", 10, 64, 64, False, "-"),
)


@dataclass(frozen=True)
class Options:
    """What to measure."""

    env: str = "HalfCheetah-v5"
    """The task."""
    backbone: str = "ddpg"
    """ddpg, td3, sac or ppo, on both sides."""
    seconds: float = 3.0
    """Length of one measurement."""
    rounds: int = 5
    """How often all sides are measured in turn; the median round counts."""
    out: Path = Path("results/speed")
    """Folder for the raw rows and the tables."""

    @property
    def cases(self) -> tuple[Case, ...]:
        """What is measured."""
        return PPO_CASES if self.backbone == "ppo" else tuple(c for c in CASES if not native.supports(c.precision))

    @property
    def unit(self) -> int:
        """Steps of a learner that are measured as a whole."""
        return WARM_UP["ppo"] if self.backbone == "ppo" else 100


RIVALS = {"SB3": "stable_baselines3", "SBX": "sbx"}
"""What ours is measured beside, by the module; the ratio is to the first."""


def rivals() -> list[str]:
    """Those that are installed."""
    return [name for name, module in RIVALS.items() if importlib.util.find_spec(module)]
