"""What students keep of their teacher, measured fairly: the same starts, as many episodes, means, minima and falls."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np

from policykd.tasks.evaluate import Evaluation, Evaluator
from policykd.training.teacher_student import TeacherStudent


@dataclass(frozen=True)
class Retention:
    """A student beside its teacher on the same starts."""

    retention: float
    """The student's mean return over the teacher's; counted from random actions where the teacher's is not positive."""
    teacher_return_here: float
    """The teacher's mean return on these starts."""
    return_min: float
    """The student's worst episode."""
    teacher_return_min: float
    """The teacher's worst episode."""
    falls: int
    """The student's episodes that ended before the longest one of either."""
    teacher_falls: int
    """The teacher's."""


def retention(agent: TeacherStudent, student: Evaluation, seed: int) -> list[dict[str, float]]:
    """One row per student of an agent.

    Args:
        agent: its teacher plays the same starts.
        student: what ``agent.evaluate(n, seed)`` returned.
        seed: that seed.
    """
    score = agent.score_teacher()
    assert score is not None and agent.panel is not None
    evaluator = Evaluator(agent.full_factory, 1, agent.action_scale.to_env)
    try:
        teacher = evaluator.run(agent.panel.player(lambda: evaluator.starts), student.returns.shape[1], [seed], 0)
    finally:
        evaluator.close()
    chance = score.random_mean if teacher.returns.mean() <= 0 else 0.0
    longest = max(student.lengths.max(), teacher.lengths.max())
    rows = []
    for returns, lengths in zip(student.returns, student.lengths, strict=True):
        kept = (returns.mean() - chance) / (teacher.returns.mean() - chance)
        minima = float(returns.min()), float(teacher.returns.min())
        falls = (int(np.sum(parts < longest)) for parts in (lengths, teacher.lengths))
        rows.append(asdict(Retention(float(kept), float(teacher.returns.mean()), *minima, *falls)))
    return rows
