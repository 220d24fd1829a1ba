"""Products of the kernels with operands in bfloat16, where the processor has them (AVX512-BF16)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

from policykd.native import kernels

Precision = Literal["float32", "bfloat16"]


def supports(precision: Precision) -> str:
    """Why this machine has no such products; empty where it has."""
    if precision == "float32":
        return ""
    if not kernels.available():
        return f"needs the native kernels: {kernels.reason()}"
    before = kernels.set_bfloat16(True)
    if before < 0:
        return "needs a processor with AVX512-BF16 (Zen 4, Sapphire Rapids and later)"
    kernels.set_bfloat16(bool(before))
    return ""


@contextmanager
def precision(chosen: Precision) -> Iterator[None]:
    """Multiply by this precision in this process, as long as the context lasts.

    With "bfloat16" both operands of the products between hidden layers of 32 and more units are rounded to 8 bits of
    mantissa; sums, activations, parameters and their moments stay float32, and so do the first and the last layer.

    Raises:
        ValueError: this machine cannot.
    """
    if why := supports(chosen):
        raise ValueError(f"matmul_precision={chosen!r} {why}")
    if not kernels.available():
        yield
        return
    before = kernels.set_bfloat16(chosen == "bfloat16")
    try:
        yield
    finally:
        kernels.set_bfloat16(bool(before))
