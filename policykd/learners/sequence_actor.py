"""Learners whose actor reads sequences: what they answer there is what they answer at single states, step by step."""

from __future__ import annotations

import copy
from typing import Any, TypeVar

from policykd.core.recurrent import SequenceNetwork
from policykd.learners.learner import Learner

L = TypeVar("L", bound=Learner)


def with_actor(learner: L, network: SequenceNetwork) -> L:
    """The same learners, with the same parameters and statistics, whose actor is ``network``."""
    reader: Any = copy.copy(learner)
    reader.actor_network = network
    return reader
