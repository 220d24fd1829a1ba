"""Tasks: spaces, views, the learners' environments, and evaluation."""

from policykd.tasks.evaluate import Evaluation, Evaluator

__all__ = ["Evaluation", "Evaluator"]
