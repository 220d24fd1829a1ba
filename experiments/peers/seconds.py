"""Question 1's time: what an environment step of a group costs, beside one of SB3's agent.

    python -m experiments.peers.seconds

CPU time of one thread per environment step of a group, past the random steps, in bursts of both sides in turn; settings
are those of small.yaml. Ours is compiled, as ``compile="auto"`` decides for so many updates. Writes
results/peers_seconds.csv; on a machine that does nothing else.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import policykd_envs
import tyro
from stable_baselines3.common.vec_env import DummyVecEnv

from experiments.measurements import Measurements
from experiments.speed.run import steps_only
from policykd import DualStudent, export
from policykd.benchmark.spec import Cell
from policykd.benchmark.spec_file import load_spec
from policykd.cli import guarded
from policykd.core.compute import one_thread
from policykd.core.fields import change

SPEC = Path(__file__).with_name("small.yaml")
METHODS = ("sb3", "single_4", "four_mutual_2")


@dataclass(frozen=True)
class Options:
    """What to measure."""

    task: str = "HalfCheetah-v5"
    """One of the spec's."""
    groups: tuple[int, ...] = (1, 10)
    """Groups (or single agents) of ours that learn at once."""
    steps: int = 200
    """Environment steps of a group in a burst."""
    rounds: int = 15
    """Bursts of every side."""
    out: Path = Path("results/peers_seconds.csv")
    """Where the rows go."""


def stepper(cell: Cell, groups: int) -> Callable[[int], object]:
    """A function that trains all groups for n more environment steps of each."""
    quiet = {"eval_freq": 0, "checkpoint_freq": 0, "n_eval_episodes": 0, "learning_starts": 100}
    config = change(cell.settings, quiet)
    if cell.base == "sb3":
        model = export.make_model(cell.backbone, config, DummyVecEnv([lambda: policykd_envs.make(cell.task)]), 0)
        return lambda steps: model.learn(steps, reset_num_timesteps=False)
    agent = DualStudent(
        cell.task,
        method="independent" if cell.base == "single" else cell.base,
        backbone=cell.backbone,
        peers=cell.peers,
        seeds=range(groups),
        config=config,
        device="cpu",
        compile=True,
    )
    return lambda steps: steps_only(agent, steps * groups)


def main(options: Options) -> None:
    spec = load_spec(SPEC)
    cells = {c.method: c for c in spec.cells if c.task == options.task and c.backbone == "sac" and c.method in METHODS}
    found = Measurements(options.out, ("task", "method", "groups", "round"), ("microseconds",))
    cases = [(m, g) for m in METHODS for g in options.groups if m != "sb3" or g == options.groups[0]]
    with one_thread():
        sides = {case: stepper(cells[case[0]], case[1]) for case in cases}
        for step in sides.values():
            step(600)  # random steps, and what is compiled
        for number in range(options.rounds):
            if found.has(task=options.task, round=number):
                continue
            both = []  # a round is kept whole: what is compared was measured in turn
            for (method, groups), step in sides.items():
                started = time.thread_time()
                step(options.steps)
                spent = (time.thread_time() - started) / options.steps / groups * 1e6
                key = {"task": options.task, "method": method, "groups": groups, "round": number}
                both.append({**key, "microseconds": round(spent, 1)})
            found.add(*both)
    print(table(found.where(task=options.task)))


def table(rows: pd.DataFrame) -> str:
    """Medians in Markdown, over that of SB3's agent round by round."""
    by_round = rows.pivot(index="round", columns=["method", "groups"], values="microseconds")
    ratios = by_round.div(by_round["sb3"].iloc[:, 0], axis=0).median()
    lines = ["| row | groups at once | of SB3's time per environment step |", "|---|---|---|"]
    return "\n".join(
        [*lines, *(f"| {method} | {groups} | {ratios[method, groups]:.2f} |" for method, groups in ratios.index)]
    )


if __name__ == "__main__":
    guarded(lambda: main(tyro.cli(Options, description=__doc__)))
