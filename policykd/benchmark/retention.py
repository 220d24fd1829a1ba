"""How much of their teacher's return students retain, measured on the same number of episodes and initial states."""

from __future__ import annotations

import dataclasses
from contextlib import closing

import numpy as np

from policykd.tasks.evaluate import Evaluation, Evaluator
from policykd.training.teacher_student import TeacherStudent


def retention(agent: TeacherStudent, student: Evaluation, seed: int) -> list[dict[str, float]]:
    """Compare each student of an agent with its teacher on the same initial states, one row per student.

    ``retention`` is the student's mean return divided by the teacher's, both measured from random actions if the
    teacher's is not positive; ``teacher_return_here`` the teacher's mean return; ``return_min`` and
    ``teacher_return_min`` the worst episodes; ``falls`` and ``teacher_falls`` the number of episodes shorter than the
    longest one of either.

    Args:
        agent: the agent, whose teacher plays the same initial states.
        student: result of ``agent.evaluate(n, seed)``.
        seed: seed of that evaluation.
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
