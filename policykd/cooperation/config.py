"""The settings of the search for counterfactuals, which need no torch."""

from __future__ import annotations

from dataclasses import dataclass

from policykd.core.fields import fractions, not_negative, positive, read_fields, require


@dataclass(frozen=True)
class SearchConfig:
    """Settings of the search."""

    alpha: float = 0.5
    """How far the target lies from the teacher's probabilities (0) to certainty (1)."""
    sparsity: float = 1e-3
    """Weight of the L1 distance from the original, in widths of the teacher's data."""
    least_move: float = 0.02
    """Mean distance, in widths, that a counterfactual is at least away from its original, over the shared features
    that vary in the teacher's data."""
    gradient_steps: int = 50
    """Steps of Adam for torch learners."""
    step_size: float = 0.02
    """Of each of them, in widths."""
    search_steps: int = 15
    """Steps of the search without gradients."""
    proposals: int = 4
    """Candidates per row in each of them."""

    def __post_init__(self) -> None:
        """Refuse values that cannot work, each in one line."""
        read_fields(self)
        fractions(self, "alpha")
        not_negative(self, "sparsity")
        require(0 < self.least_move < 1, "least_move", self.least_move, "must lie between 0 and 1")
        not_negative(self, "gradient_steps")
        positive(self, "step_size")
        require(self.search_steps >= 1, "search_steps", self.search_steps, "must be at least 1")
        require(self.proposals >= 1, "proposals", self.proposals, "must be at least 1")
