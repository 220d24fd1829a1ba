"""How a step is collected and learnt from, one file per way; a recipe knows no agent, folder or logger."""

from policykd.training.recipes.recipe import Recipe

__all__ = ["Recipe"]
