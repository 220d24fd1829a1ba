"""Measuring policies."""

from policykd.tasks.evaluate import Evaluation, Evaluator

__all__ = ["Evaluation", "Evaluator"]
