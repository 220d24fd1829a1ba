"""What share of the processor's peak the kernels reach, beside torch.mm: in turn, one thread, by its CPU time.

    python experiments/speed/peak.py --out results/speed/peak.csv

The peak is measured, as clocks move: sums of products in registers, without memory. GFLOP/s of every round; the ratio
of two in one round is what means something on a shared machine.
"""

from __future__ import annotations

import csv
import ctypes
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
import tyro

from policykd.core.networks import MLP
from policykd.native import build, kernels

PEAK = """
typedef float Vec __attribute__((vector_size(LANES * 4)));
float peak(long count) {
    Vec sum[20], x = {0}, y = {0};
    x += 1.0000001f; y += 1e-9f;
    for (int i = 0; i < 20; i++) sum[i] = x + (float)i;
    for (long k = 0; k < count; k++) {
#pragma GCC unroll 20
        for (int i = 0; i < 20; i++) sum[i] = sum[i] * x + y;
    }
    float total = 0;
    for (int i = 0; i < 20; i++) for (int j = 0; j < LANES; j++) total += sum[i][j];
    return total;
}
"""


def peak() -> tuple[Callable[[], object], float]:
    """A function that multiplies and adds in registers alone, and its billions of operations."""
    lanes = 16 if "avx512f" in Path("/proc/cpuinfo").read_text() else 8
    with tempfile.TemporaryDirectory() as folder:
        source, library = Path(folder) / "peak.c", Path(folder) / "peak.so"
        source.write_text(PEAK.replace("LANES", str(lanes)))
        flags = ["-O3", "-march=native", "-fPIC", "-shared", "-o", str(library)]
        subprocess.run([*build.find_compiler(), *flags, str(source)], check=True)
        loaded = ctypes.CDLL(str(library))
    loaded.peak.restype = ctypes.c_float
    count = 100_000
    return lambda: loaded.peak(ctypes.c_long(count)), 2e-9 * count * 20 * lanes


def network(width: int, batch: int) -> dict[str, tuple[Callable[[], object], float]]:
    """Forward and backward of two networks, and torch's product of one hidden layer."""
    sizes = (17, width, width, 6)
    layers = MLP(sizes).layers
    every, but_first = (sum(a * b for a, b in part) for part in (layers, layers[1:]))
    rows = torch.randn(2, MLP(sizes).parameter_count) / width**0.5
    inputs, gradient = torch.randn(2, batch, 17), torch.randn(2, batch, 6)
    kept = kernels.forward(rows, inputs, sizes, "relu", False, True)[1]
    assert kept is not None
    a, b = torch.randn(batch, width), torch.randn(width, width)
    arguments = (gradient, rows, inputs, kept, sizes, "relu", False, True, False)
    return {
        f"forward {width}": (lambda: kernels.forward(rows, inputs, sizes, "relu", False, True), 4e-9 * batch * every),
        f"backward {width}": (lambda: kernels.backward(*arguments), 4e-9 * batch * (every + but_first)),
        f"torch.mm {width}": (lambda: torch.mm(a, b), 2e-9 * batch * width**2),
    }


def main(rounds: int = 60, out: Path | None = None) -> None:
    """Measure and print medians of the ratios to the peak."""
    torch.set_num_threads(1)
    cases = {"peak": peak(), **network(64, 64), **network(256, 256)}
    rows: list[tuple[int, str, float]] = []
    for number in range(-2, rounds):
        for who, (call, gflop) in cases.items():
            calls = max(1, round(0.05 / gflop))
            started = time.thread_time_ns()
            for _ in range(calls):
                call()
            if number >= 0:
                rows.append((number, who, gflop * calls / (time.thread_time_ns() - started) * 1e9))
    peaks = [rate for _, who, rate in rows if who == "peak"]
    for who in cases:
        rates = [rate for _, name, rate in rows if name == who]
        share = statistics.median(rate / top for rate, top in zip(rates, peaks, strict=True))
        print(f"{who:14} {statistics.median(rates):7.1f} GFLOP/s {share:6.2f} of the peak")
    if out is not None:
        with out.open("w", newline="") as file:
            csv.writer(file).writerows([("round", "who", "gflops"), *rows])


if __name__ == "__main__":
    tyro.cli(main)
