"""The interface between the training loop and an algorithm."""

from __future__ import annotations

from typing import Any, Protocol

from torch import Tensor

from policykd.training.collector import Step


class Recipe(Protocol):
    """Collects environment steps and learns from them, for all learners at once."""

    compiled: bool
    """Whether its updates are compiled by ``torch.compile``."""
    n_updates: int
    """Gradient steps so far (of PPO: epochs, as SB3 counts them)."""

    @property
    def rollout_over(self) -> bool:
        """Whether the last step completed a rollout in SB3's sense, so that an update follows."""

    def expect(self, end: int) -> None:
        """Warn if training ends at ``end`` steps of a group, before the first rollout or round is complete."""

    def collect(self) -> Step:
        """Step all environments once and store the transitions."""

    def improve(self, progress: float, diagnose: bool) -> dict[str, Tensor]:
        """Make the updates that are due after a step; returns the latest diagnostics ``(K,)`` by log key.

        Args:
            progress: fraction of the run that is done, from 0 to 1, for schedules.
            diagnose: also compute what is only logged, in this update or the next.
        """

    def compile(self) -> None:
        """Compile later updates with ``torch.compile``."""

    def state(self) -> dict[str, Any]:
        """State to save in a checkpoint, besides learners and memories."""

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a saved state."""
