"""The kernels of MLPs beside one another and torch's products, in turn in one process, by CPU time of one thread.

    python -m experiments.speed.kernels --help

Columns: microseconds of one call (median, and the quarter below it) and GFLOP/s of its products.
"""

from __future__ import annotations

import csv
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
import tyro

from policykd import native
from policykd.cli import guarded
from policykd.core.networks import MLP, Adam, gradient


@dataclass(frozen=True)
class Options:
    """What to measure."""

    sizes: tuple[int, ...] = (17, 64, 64, 6)
    """Widths of the network."""
    batch: int = 64
    """Samples per network."""
    networks: int = 2
    """Networks in one call."""
    rounds: int = 200
    """How often every variant is measured, in turn."""
    calls: int = 10
    """Calls in one measurement."""
    out: Path | None = None
    """File for the raw rows."""


def products(options: Options) -> float:
    """Billions of floating-point operations of forward and backward, with gradients of parameters alone."""
    layers = MLP(options.sizes).layers
    every, but_first = (sum(a * b for a, b in part) for part in (layers, layers[1:]))
    return 2e-9 * options.networks * options.batch * (2 * every + but_first)


def variants(options: Options) -> dict[str, tuple[Callable[[], object], float]]:
    """What is measured, each with the operations of its products."""
    inputs = torch.randn(options.networks, options.batch, options.sizes[0])
    found: dict[str, tuple[Callable[[], object], float]] = {}

    def step(network: MLP) -> Callable[[], object]:
        rows = torch.randn(options.networks, network.parameter_count) / max(options.sizes) ** 0.5
        adam = Adam(rows)

        def one() -> None:
            gradients, _ = gradient(lambda leaf: (network(leaf, inputs).square().mean((1, 2)), {}), rows)
            adam.step(rows, gradients, 1e-4)

        return one

    for activation in ("relu", "tanh", "elu"):
        for norm in (False, True):
            network = MLP(options.sizes, activation=activation, layer_norm=norm)
            found[f"{activation}{' norm' if norm else ''}"] = step(network), products(options)
    if not native.supports("bfloat16"):
        plain = step(MLP(options.sizes))

        def rounded() -> None:
            with native.precision("bfloat16"):
                plain()

        found["relu bfloat16"] = rounded, products(options)
    width = max(options.sizes)
    a, b = torch.randn(options.batch, width), torch.randn(width, width)
    found["torch.mm"] = lambda: torch.mm(a, b), 2e-9 * options.batch * width * width
    return found


def main(options: Options) -> None:
    """Measure in turn and print; CPU time, as others may share the machine."""
    torch.set_num_threads(1)
    cases = variants(options)
    rows = []
    for number in range(-3, options.rounds):
        for name, (call, _) in cases.items():
            started = time.thread_time_ns()
            for _ in range(options.calls):
                call()
            if number >= 0:
                rows.append((number, name, (time.thread_time_ns() - started) / 1e3 / options.calls))
    base = statistics.median(us for _, who, us in rows if who == "relu")
    for name, (_, gflop) in cases.items():
        times = [us for _, who, us in rows if who == name]
        median, low = statistics.median(times), statistics.quantiles(times, n=4)[0]
        print(
            f"{name:12} {median:9.1f} us {low:9.1f} us {gflop / median * 1e6:7.1f} GFLOP/s {median / base:6.2f}x relu"
        )
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        with options.out.open("w", newline="") as file:
            csv.writer(file).writerows([("round", "who", "microseconds"), *rows])


if __name__ == "__main__":
    guarded(lambda: main(tyro.cli(Options, description=__doc__)))
