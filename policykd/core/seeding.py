"""Random streams: every stochastic part of every learner has its own generator.

A stream depends only on (seed, peer, purpose), so a learner draws the same numbers whether it trains alone or in a
batch of fifty, and evaluation does not affect training.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

import numpy as np

Purpose = Literal["learner", "exploration", "replay", "environment", "evaluation"]
PURPOSES: tuple[Purpose, ...] = ("learner", "exploration", "replay", "environment", "evaluation")

Generators = list[np.random.Generator]
"""One generator per learner."""


def stream(seed: int, peer: int, purpose: Purpose, *index: int) -> np.random.Generator:
    """Make the generator for one purpose of a peer in the group with this seed."""
    return np.random.default_rng(np.random.SeedSequence((seed, peer, PURPOSES.index(purpose), *index)))


def env_seed(seed: int, peer: int, purpose: Purpose, *index: int) -> int:
    """Draw a seed for ``env.reset`` from a stream."""
    return int(stream(seed, peer, purpose, *index).integers(2**31))


def generator_state(generator: np.random.Generator) -> dict[str, Any]:
    """The state of a generator as plain values."""
    return dict(generator.bit_generator.state)


def set_generator_state(generator: np.random.Generator, state: dict[str, Any]) -> None:
    """Set a generator to a saved ``state``."""
    generator.bit_generator.state = state


@contextmanager
def preserve_generators(generators: Generators, of: np.ndarray) -> Iterator[None]:
    """Restore the generators of the learners in ``of`` (bool, ``(K,)``) after the block."""
    states = {k: generator_state(generators[k]) for k in np.flatnonzero(of)}
    yield
    for k, state in states.items():
        set_generator_state(generators[k], state)


def seed_learner(learner: Any, seed: int) -> Any:
    """Set every ``random_state`` of a scikit-learn learner that is None, in the order of their names."""
    if not hasattr(learner, "get_params"):
        return learner
    found = learner.get_params()
    unset = [key for key in sorted(found) if key.rpartition("__")[2] == "random_state" and found[key] is None]
    generator = np.random.default_rng(seed)
    return learner.set_params(**{key: int(generator.integers(2**31)) for key in unset}) if unset else learner
