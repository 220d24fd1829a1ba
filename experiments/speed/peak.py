"""What share of the processor's peak the kernels reach, beside torch.mm: in turn, one thread, by its CPU time.

    python -m experiments.speed.peak --out results/speed/peak.csv

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

from policykd.cli import guarded
from policykd.core.networks import MLP
from policykd.native import build, kernels

NATIVE = Path(build.__file__).parent

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

PRODUCT = """
#include "product.h"
void layers(long count, long width, const float *a, const float *b, float *c, const float *bias, float *panel) {
    const Matrix left = {a, width, 1}, right = {b, width, 1};
    for (long i = 0; i < count; i++)
        product(width, width, width, left, right, c, (Epilogue){bias, NULL, 1, 0, 0}, panel);
}
"""


def compiled(source: str, *more: Path) -> ctypes.CDLL:
    """A library of this source, and of more files, compiled as the kernels are."""
    with tempfile.TemporaryDirectory() as folder:
        file, library = Path(folder) / "source.c", Path(folder) / "library.so"
        file.write_text(source, encoding="utf-8")
        flags = ["-O3", "-march=native", "-fPIC", "-shared", f"-I{NATIVE}", "-o", str(library)]
        subprocess.run([*build.find_compiler(), *flags, str(file), *map(str, more)], check=True)
        return ctypes.CDLL(str(library))


def peak() -> tuple[Callable[[], object], float]:
    """A function that multiplies and adds in registers alone, and its billions of operations."""
    lanes = 16 if "avx512f" in Path("/proc/cpuinfo").read_text(encoding="utf-8") else 8
    loaded = compiled(PEAK.replace("LANES", str(lanes)))
    loaded.peak.restype = ctypes.c_float
    count = 100_000
    return lambda: loaded.peak(ctypes.c_long(count)), 2e-9 * count * 20 * lanes


def product(width: int) -> dict[str, tuple[Callable[[], object], float]]:
    """A hidden layer with its bias and ReLU for as many samples as units, again and again without Python."""
    layers, count = compiled(PRODUCT, NATIVE / "product.c").layers, ctypes.c_long(1 + 50_000_000 // width**3)
    a, b, c = torch.randn(3, width, width)
    bias, panel = torch.randn(width), torch.empty(2 * width, 64)

    def call() -> None:
        layers(count, ctypes.c_long(width), *(ctypes.c_void_p(tensor.data_ptr()) for tensor in (a, b, c, bias, panel)))

    call()
    torch.testing.assert_close(c, (a @ b + bias).relu(), rtol=1e-3, atol=1e-3)
    return {f"hidden layer {width}": (call, 2e-9 * count.value * width**3)}


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
    cases = {"peak": peak(), **product(64), **network(64, 64), **product(256), **network(256, 256)}
    rows: list[tuple[int, str, float]] = []
    for number in range(-2, rounds):
        for who, (call, gflop) in cases.items():
            calls = max(1, round(0.3 / gflop))
            started = time.thread_time_ns()
            for _ in range(calls):
                call()
            if number >= 0:
                rows.append((number, who, gflop * calls / (time.thread_time_ns() - started) * 1e9))
    peaks = [rate for _, who, rate in rows if who == "peak"]
    for who in cases:
        rates = [rate for _, name, rate in rows if name == who]
        share = statistics.median(rate / top for rate, top in zip(rates, peaks, strict=True))
        print(f"{who:16} {statistics.median(rates):7.1f} GFLOP/s {share:6.2f} of the peak")
    if out is not None:
        with out.open("w", newline="") as file:
            csv.writer(file).writerows([("round", "who", "gflops"), *rows])


if __name__ == "__main__":
    guarded(lambda: tyro.cli(main))
