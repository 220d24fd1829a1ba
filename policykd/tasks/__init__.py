"""Tasks as learners meet them: spaces, views, environments of all learners, and evaluation on them."""

from policykd.tasks.evaluate import Evaluation, Evaluator

__all__ = ["Evaluation", "Evaluator"]
