"""Settings of the counterfactual search; importing them needs no torch."""

from __future__ import annotations

from dataclasses import dataclass

from policykd.core.fields import fractions, not_negative, positive, read_fields, require


@dataclass(frozen=True)
class SearchConfig:
    """Settings of the counterfactual search."""

    alpha: float = 0.5
    """Position of the target between the teacher's probabilities (0) and certainty (1)."""
    sparsity: float = 1e-3
    """Weight of the L1 distance from the original, in units of the range of the teacher's data."""
    least_move: float = 0.02
    """Minimum mean distance of a counterfactual from its original, in units of the range, over the shared features
    that vary in the teacher's data."""
    gradient_steps: int = 50
    """Adam steps for torch learners."""
    step_size: float = 0.02
    """Adam's learning rate, in units of the range."""
    search_steps: int = 15
    """Steps of the gradient-free search."""
    proposals: int = 4
    """Candidates per row in each step of the gradient-free search."""

    def __post_init__(self) -> None:
        """Refuse invalid values."""
        read_fields(self)
        fractions(self, "alpha")
        not_negative(self, "sparsity")
        require(0 < self.least_move < 1, "least_move", self.least_move, "must lie between 0 and 1")
        not_negative(self, "gradient_steps")
        positive(self, "step_size")
        require(self.search_steps >= 1, "search_steps", self.search_steps, "must be at least 1")
        require(self.proposals >= 1, "proposals", self.proposals, "must be at least 1")
