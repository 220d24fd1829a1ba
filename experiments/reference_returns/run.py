"""Mean return of random actions, which counts as 0 in a benchmark.

python -m experiments.reference_returns.run Hopper-v5 ...
"""

from __future__ import annotations

import tyro

from policykd.benchmark.random_actions import random_returns
from policykd.cli import guarded

EPISODES = 100


def main(tasks: tyro.conf.Positional[tuple[str, ...]]) -> None:
    for task in tasks:
        returns = random_returns(task, EPISODES, seed=0)
        error = returns.std(ddof=1) / EPISODES**0.5
        print(f"{task}: {returns.mean():.1f} +- {error:.1f} (standard error), {EPISODES} episodes, seed 0", flush=True)


if __name__ == "__main__":
    guarded(lambda: tyro.cli(main, description=__doc__))
