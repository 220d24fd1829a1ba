"""Checks of an agent's arguments: seeds, episodes, threads, precision, device."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Literal, TypeVar

import numpy as np
import torch

from policykd import native
from policykd.core.errors import PolicyKDError
from policykd.core.fields import as_int, as_type, require
from policykd.learners.config import Config
from policykd.native.threads import Threads, count

log = logging.getLogger("policykd")

Compile = bool | Literal["auto", "later"]
C = TypeVar("C", bound=Config)


def check_seeds(seeds: Sequence[int]) -> tuple[int, ...]:
    """One whole number from 0 up per group, each of its own."""
    several = isinstance(seeds, Sequence | np.ndarray) and not isinstance(seeds, str)
    values = [seed for seed in map(as_int, seeds if several else (seeds,)) if seed is not None and seed >= 0]
    if not values or len(values) < (len(seeds) if several else 1):
        raise PolicyKDError(f"seeds: must be one or more integers >= 0, got {seeds!r}")
    if len(set(values)) < len(values):
        raise PolicyKDError(f"seeds: must be distinct, one per group, got {values}")
    return tuple(values)


def check_int(name: str, value: int, least: int = 1) -> int:
    """A whole number from ``least`` up."""
    number: int = as_type(name, value, int)
    require(number >= least, name, value, f"must be at least {least}")
    return number


def check_episodes(episodes: int, seed: int) -> tuple[int, int]:
    """The episodes and the seed of an evaluation: some, and from 0 up."""
    number, start = as_int(episodes), as_int(seed)
    if number is None or start is None or number < 1 or start < 0:
        broken = "; both must be integers" if number is None or start is None else ""
        raise PolicyKDError(
            f"evaluate: needs at least 1 episode and a seed >= 0, got {episodes!r} and {seed!r}{broken}"
        )
    return number, start


def check_compile(compile: Compile) -> Compile:
    """Yes, no, "auto", or what a checkpoint says of "auto": that it compiles later."""
    if isinstance(compile, bool | np.bool_):
        return bool(compile)
    if isinstance(compile, str) and compile in ("auto", "later"):
        return compile
    raise PolicyKDError(f"compile: must be True, False or 'auto', got {compile!r}")


def check_threads(threads: Threads) -> Threads:
    """A positive number, or "auto"."""
    whole = as_int(threads)
    threads = threads if whole is None else whole
    try:
        count(threads)
    except ValueError as error:
        raise PolicyKDError(str(error)) from None
    return threads


GPU_PAYS = 100
"""Learners of 64x64 from which a GPU is faster than the processor also without compiling (docs/speed.md)."""


def advise_device(device: torch.device, learners: int) -> None:
    """Say so where a GPU may well slow the learners down: few, not compiled, with environments on the processor."""
    if device.type == "cuda" and learners < GPU_PAYS:
        advice = "device: small networks of few learners (%d) train faster with compile=True, or with device='cpu'"
        log.warning(advice, learners)


def check_precision(config: Config, device: torch.device) -> native.Precision:
    """How the kernels multiply on this device.

    Raises:
        PolicyKDError: this machine has no such products.
    """
    chosen = config.matmul_precision
    why = native.supports(chosen) if device.type == "cpu" else "is for the kernels of the CPU"
    if chosen != "float32" and why:
        raise PolicyKDError(f"matmul_precision: {chosen} {why}")
    return chosen
