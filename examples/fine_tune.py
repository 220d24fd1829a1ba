"""After distillation: a student goes on with RL, held by its teacher at first, and becomes better than that.

    python examples/fine_tune.py

The teacher is a controller that reaches its goal, but slowly. A TD3 student copies it; then ``fine_tune()`` fits new
critics while the student is frozen, and lets it learn from the task's own reward while the pull of the teacher fades.
"""

from __future__ import annotations

import argparse

import numpy as np

from policykd import TeacherStudent


def hesitant(observation: np.ndarray) -> np.ndarray:
    """Drive towards the goal, whose relative position is the last half of the observation, at a fifth of the speed."""
    return np.clip(2 * observation[..., 2:4], -1, 1)


def main(steps: int = 5_000) -> TeacherStudent:
    config = {"net_arch": (32, 32), "batch_size": 64, "distill_batch_size": 64, "buffer_size": 50_000, "eval_freq": 0}
    students = TeacherStudent("PolicyKD/PointReach-v0", hesitant, backbone="td3", seeds=(0, 1, 2), config=config)
    print(students.score_teacher())
    students.learn(steps)
    print(f"students: {students.evaluations[-1].returns.mean(1).round(1)}")
    students.fine_tune(2 * steps, config={"critic_steps": steps // 2, "eval_freq": steps // 2})
    for at, evaluation in zip(students.evaluation_steps[1:], students.evaluations[1:], strict=True):
        print(f"{at - steps:6,} steps of fine-tuning: {evaluation.returns.mean(1).round(1)}")
    return students


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=5_000)
    main(parser.parse_args().steps)
