"""Random streams: every stochastic part of every learner has a generator of its own.

A stream is known by (seed, peer, purpose) alone, so a learner draws the same numbers whether it trains by itself or
in a batch of fifty, and evaluation never disturbs training.
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
    """The generator of one purpose of peer ``peer`` in the group of seed ``seed``."""
    return np.random.default_rng(np.random.SeedSequence((seed, peer, PURPOSES.index(purpose), *index)))


def env_seed(seed: int, peer: int, purpose: Purpose, *index: int) -> int:
    """A seed for ``env.reset`` drawn from a stream."""
    return int(stream(seed, peer, purpose, *index).integers(2**31))


def generator_state(generator: np.random.Generator) -> dict[str, Any]:
    """The state of a generator as plain values."""
    return dict(generator.bit_generator.state)


def set_generator_state(generator: np.random.Generator, state: dict[str, Any]) -> None:
    """Continue a generator from ``state``."""
    generator.bit_generator.state = state


@contextmanager
def undrawn(generators: Generators, of: np.ndarray) -> Iterator[None]:
    """Put the generators back of those learners, ``of (K,)`` in bool."""
    states = {k: generator_state(generators[k]) for k in np.flatnonzero(of)}
    yield
    for k, state in states.items():
        set_generator_state(generators[k], state)


def seed_learner(learner: Any, seed: int) -> Any:
    """A learner of scikit-learn with its random states that are None set, in the order of their names."""
    if not hasattr(learner, "get_params"):
        return learner
    found = learner.get_params()
    unset = [key for key in sorted(found) if key.rpartition("__")[2] == "random_state" and found[key] is None]
    generator = np.random.default_rng(seed)
    return learner.set_params(**{key: int(generator.integers(2**31)) for key in unset}) if unset else learner
