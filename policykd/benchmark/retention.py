"""What students keep of their teacher, measured fairly: the same starts, as many episodes, means, minima and falls."""

from __future__ import annotations

import dataclasses
from contextlib import closing

import numpy as np

from policykd.tasks.evaluate import Evaluation, Evaluator
from policykd.training.teacher_student import TeacherStudent


def retention(agent: TeacherStudent, student: Evaluation, seed: int) -> list[dict[str, float]]:
    """One row per student of an agent: it beside its teacher on the same starts.

    ``retention`` is the student's mean return over the teacher's, counted from random actions where the teacher's is
    not positive; ``teacher_return_here`` the teacher's mean return; ``return_min`` and ``teacher_return_min`` the worst
    episodes; ``falls`` and ``teacher_falls`` the episodes that ended before the longest one of either.

    Args:
        agent: its teacher plays the same starts.
        student: what ``agent.evaluate(n, seed)`` returned.
        seed: that seed.
    """
    score = agent.score_teacher()
    assert score is not None and agent.panel is not None
    with closing(Evaluator(agent.full_factory, 1, agent.action_scale.to_env)) as evaluator:
        teacher = evaluator.run(agent.panel.player(lambda: evaluator.starts), student.returns.shape[1], [seed], 0)
    here = dataclasses.replace(score, returns=teacher.returns)
    longest = max(student.lengths.max(), teacher.lengths.max())
    return [
        {
            "retention": float(here.ratio(returns.mean())),
            "teacher_return_here": float(teacher.returns.mean()),
            "return_min": float(returns.min()),
            "teacher_return_min": float(teacher.returns.min()),
            "falls": int(np.sum(lengths < longest)),
            "teacher_falls": int(np.sum(teacher.lengths < longest)),
        }
        for returns, lengths in zip(student.returns, student.lengths, strict=True)
    ]
