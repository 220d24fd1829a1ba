"""What it gains to compile acting, too: two agents whose updates are compiled, one of which acts by a compiled call.

    python -m experiments.speed.acting --out results/speed/acting.csv

Both train in turn in short bursts, by the processor time of their thread; ratios are taken burst by burst, and their
median counts.
"""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass
from pathlib import Path

import tyro

from experiments.speed.cases import Case, Options
from experiments.speed.report import write_rows
from experiments.speed.run import our_agent, steps_only
from policykd.cli import guarded
from policykd.training.compiling import compile_step
from policykd.training.recipes.replay import LearnFromReplay


@dataclass(frozen=True)
class ActingOptions:
    """What to measure."""

    backbones: tuple[str, ...] = ("ddpg", "td3", "sac")
    """Off policy."""
    learners: tuple[int, ...] = (2, 20)
    """Numbers of learners K, in groups of two."""
    env: str = "HalfCheetah-v5"
    """The task."""
    rounds: int = 24
    """Bursts of each agent."""
    steps: int = 100
    """Steps of each learner in a burst."""
    out: Path | None = None
    """File for the raw rows."""


def bursts(options: ActingOptions, backbone: str, learners: int) -> list[dict[str, object]]:
    """A row per burst: microseconds per step of a learner."""
    case = Case("acting", learners // 2, 64, 64, True, "-")
    agents = {how: our_agent(Options(env=options.env, backbone=backbone), case) for how in ("eager", "compiled")}
    for how, agent in agents.items():
        steps_only(agent, 120 * learners)
        recipe = agent.recipe
        assert isinstance(recipe, LearnFromReplay)
        if how == "compiled":
            recipe._acted = compile_step(recipe.acted, agent.device)
        steps_only(agent, 20 * learners)
    rows: list[dict[str, object]] = []
    for number in range(options.rounds):
        for how in sorted(agents, reverse=bool(number % 2)):
            started = time.thread_time()
            steps_only(agents[how], options.steps * learners)
            spent = (time.thread_time() - started) / options.steps / learners
            common = {"backbone": backbone, "learners": learners, "round": number}
            rows.append({**common, "acting": how, "microseconds": spent * 1e6})
    return rows


def main(options: ActingOptions) -> None:
    """Measure, print and keep."""
    rows: list[dict[str, object]] = []
    for backbone in options.backbones:
        for learners in options.learners:
            rows += (measured := bursts(options, backbone, learners))
            spent = {(row["acting"], row["round"]): float(str(row["microseconds"])) for row in measured}
            ratios = [spent["eager", number] / spent["compiled", number] for number in range(options.rounds)]
            low, middle, high = statistics.quantiles(ratios, n=4)
            print(f"{backbone}, {learners} learners: {middle:.3f}x (quartiles {low:.3f} to {high:.3f})", flush=True)
    if options.out:
        write_rows(options.out, rows)


if __name__ == "__main__":
    guarded(lambda: main(tyro.cli(ActingOptions, description=__doc__)))
