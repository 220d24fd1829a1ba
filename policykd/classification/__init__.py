"""Supervised distillation of classifiers, policykd's secondary mode."""
