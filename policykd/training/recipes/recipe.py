"""What the training loop asks of a way to learn."""

from __future__ import annotations

from typing import Any, Protocol

from torch import Tensor

from policykd.training.collector import Step


class Recipe(Protocol):
    """A way of collecting steps and learning from them, for all learners at once."""

    compiled: bool
    """Whether it computes with ``torch.compile``."""
    n_updates: int
    """Gradient steps so far (of PPO: epochs, as SB3 counts them)."""

    @property
    def rollout_over(self) -> bool:
        """Whether what SB3 calls a rollout ended with the last step: an update follows."""

    def expect(self, end: int) -> None:
        """Warn where nothing can be learnt by ``end`` steps of a group, because a rollout or round is longer."""

    def collect(self) -> Step:
        """One step of all environments into the memory."""

    def improve(self, progress: float, diagnose: bool) -> dict[str, Tensor]:
        """The updates that are due after a step; the latest diagnostics ``(K,)`` by log key.

        Args:
            progress: from 0 to 1 over the run, for schedules.
            diagnose: also compute what is only logged, now or at the next occasion.
        """

    def compile(self) -> None:
        """From now on compute with ``torch.compile``."""

    def state(self) -> dict[str, Any]:
        """What a checkpoint must keep beside learners and memories."""

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a saved state."""
