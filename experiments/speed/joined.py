"""What two forward passes of an update would gain as one call, in turn in one process, by CPU time of one thread.

    python -m experiments.speed.joined --out results/speed/joined.csv

Both ways compute the same numbers. ``critics``: target critics at s' and critics at s, whose rows lie in one tensor
for it; ``policies``: one actor at s and s' (SAC's loss and its targets), or at a learner's states and its student's;
``values``: one critic at both (DPD's weights). Shapes are those of HalfCheetah, minibatches as large as layers.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
import tyro
from torch import Tensor

from experiments.speed.report import write_rows
from policykd.cli import guarded
from policykd.core.networks import MLP
from policykd.native.kernels import forward

OBSERVATION, ACTION = 17, 6
"""Their widths."""
Pair = tuple[Callable[[], list[Tensor]], Callable[[], list[Tensor]], int]
"""Two calls, one that gives the same, and the dimension along which it holds both answers."""


@dataclass(frozen=True)
class Options:
    """What to measure."""

    learners: tuple[int, ...] = (2, 20)
    """Numbers of learners K, one critic each."""
    widths: tuple[int, ...] = (64, 256)
    """Of both hidden layers, and of the minibatch."""
    rounds: int = 60
    """How often each way is measured."""
    calls: int = 5
    """Calls in one measurement."""
    out: Path | None = None
    """File for the raw rows."""


def pairs(learners: int, width: int) -> dict[str, Pair]:
    """The two ways of each pair of passes; as in an update, one of the two keeps what its gradient needs."""
    actor, critic = (MLP((size, width, width, out)) for size, out in ((OBSERVATION, ACTION), (OBSERVATION + ACTION, 1)))
    actors = torch.randn(learners, actor.parameter_count) / width**0.5
    critics = torch.randn(2 * learners, critic.parameter_count) / width**0.5
    states, nexts = torch.randn(2, learners, width, OBSERVATION)
    actions, next_actions = torch.randn(2, learners, width, ACTION)
    both = torch.empty(2 * learners, width, OBSERVATION + ACTION)

    def call(network: MLP, rows: Tensor, inputs: Tensor, keep: bool) -> Tensor:
        return forward(rows, inputs, network.sizes, "relu", False, keep)[0]

    def judged(rows: Tensor, at: Tensor, what: Tensor, keep: bool) -> Tensor:
        return call(critic, rows, torch.cat((at, what), -1), keep)

    def critics_joined() -> list[Tensor]:
        torch.cat((states, actions), -1, out=both[:learners])
        torch.cat((nexts, next_actions), -1, out=both[learners:])
        return [call(critic, critics, both, True)]

    def values_joined() -> list[Tensor]:
        inputs = torch.cat((torch.cat((states, nexts), 1), torch.cat((actions, next_actions), 1)), -1)
        return [call(critic, critics[:learners], inputs, False)]

    return {
        "critics": (
            lambda: [
                judged(critics[:learners], states, actions, True),
                judged(critics[learners:], nexts, next_actions, False),
            ],
            critics_joined,
            0,
        ),
        "policies": (
            lambda: [call(actor, actors, states, True), call(actor, actors, nexts, False)],
            lambda: [call(actor, actors, torch.cat((states, nexts), 1), True)],
            1,
        ),
        "values": (
            lambda: [
                judged(critics[:learners], states, actions, False),
                judged(critics[:learners], nexts, next_actions, False),
            ],
            values_joined,
            1,
        ),
    }


def main(options: Options) -> None:
    """Measure, print and keep."""
    torch.set_num_threads(1)
    rows: list[dict[str, object]] = []
    for learners in options.learners:
        for width in options.widths:
            for name, (two, one, dim) in pairs(learners, width).items():
                assert torch.equal(torch.cat(two(), dim), *one())
                spent: dict[str, list[float]] = {"two calls": [], "one call": []}
                for number in range(options.rounds):
                    for how, way in zip(spent, (two, one), strict=True):
                        started = time.thread_time_ns()
                        for _ in range(options.calls):
                            way()
                        spent[how].append((time.thread_time_ns() - started) / options.calls / 1e3)
                        what = {"passes": name, "learners": learners, "width": width, "round": number}
                        rows.append({**what, "how": how, "microseconds": round(spent[how][-1], 3)})
                middle = {how: statistics.median(taken) for how, taken in spent.items()}
                print(f"{name}, {learners} learners, {width}: {middle}", flush=True)
    if options.out:
        write_rows(options.out, rows)


if __name__ == "__main__":
    guarded(lambda: main(tyro.cli(Options, description=__doc__)))
