"""What is compared, declared beforehand: tasks, data, students and how they learn."""

from __future__ import annotations

from dataclasses import dataclass

TEACHERS = {"HalfCheetah-v5": "sac/HalfCheetah-v3_1", "Hopper-v5": "tqc/Hopper-v3_1"}
"""Agents of rl-baselines3-zoo by task."""
HIDDEN = "features"
"""The module of an agent of SB3 whose output is its last hidden layer (``teachers.sb3_networks``)."""
MEMORIES = {"1-NN": 1, "8-NN": 8}
"""Policies that are their data, and how many neighbours they look at."""
LOOKS_UP, MIXED = "8-NN", "plain, mixed with 8-NN"
"""The memory that retrieving students read, and the row of plain students that take the mean of it and their own."""
STUDENTS = ("plain", "retrieval", "fitnets", "rkd", "vid", "rid", "disk")
"""How students learn (``methods.METHODS``)."""
WEIGHTS = (1.0, 0.1)
"""Of a loss on features beside the squared distance of actions; both are measured."""
WIDTHS = (8, 16)
"""Units of each of a student's two hidden layers."""
WIDE = 64
"""The same of plain students beside them: what the states give to who can hold it."""
CELLS = [
    *((name, 0) for name in MEMORIES),
    *((name, width) for width in WIDTHS for name in STUDENTS),
    ("plain", WIDE),
]
"""Methods and widths, in the order in which they are measured."""


@dataclass(frozen=True)
class Protocol:
    """How long and how much."""

    states: int = 20_000
    """States of each seed: half of them where the teacher acts, half where noise is added to what it does."""
    noise: float = 0.3
    """Standard deviation of that noise, in actions scaled to [-1, 1] (Laskey et al. 2017: DART)."""
    games: int = 20
    """Environments that these states come from, an equal share of each."""
    epochs: int = 64
    """Passes over the states, the student's alone: about 10,000 gradient steps."""
    batch_size: int = 128
    learning_rate: float = 1e-3
    """Adam's at the beginning; it falls to 0 on half a cosine."""
    components: int = 32
    """Principal components of the teacher's hidden layer that stand for it."""
    relations: int = 64
    """States of a batch whose relations rkd compares: angles cost the cube."""
    episodes: int = 20
    """Of the measurement, on starts that all rows and the teacher share."""
