"""Measuring policies."""

from policykd.evaluation.evaluate import Evaluation, Evaluator

__all__ = ["Evaluation", "Evaluator"]
