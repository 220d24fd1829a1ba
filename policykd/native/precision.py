"""Matrix products of the kernels in bfloat16, on processors with AVX512-BF16."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

from policykd.native import kernels

Precision = Literal["float32", "bfloat16"]


def supports(precision: Precision) -> str:
    """Why this machine does not support a precision; empty if it does."""
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
    """Set the precision of matrix products in this process within the context.

    With "bfloat16", both operands of products between hidden layers of at least 32 units are rounded to 8 bits of
    mantissa. Sums, activations, parameters and Adam's moments stay float32, as do the first and the last layer.

    Raises:
        ValueError: this machine does not support it.
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
