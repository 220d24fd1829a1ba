"""Fine-tune a distilled student with RL, regularised towards its teacher at first, until it surpasses the teacher.

    python examples/fine_tune.py

The teacher is a controller that reaches its goal slowly. A TD3 student imitates it; then ``fine_tune()`` fits new
critics while the student is frozen, and trains it on the task's reward under a constraint to the teacher that is
gradually relaxed. A policy is returned only if its return over whole episodes exceeds that of the one before it.
"""

from __future__ import annotations

import argparse

import numpy as np

from policykd import TeacherStudent


def hesitant(observation: np.ndarray) -> np.ndarray:
    """Drive towards the goal, whose relative position is the last half of the observation, but slowly."""
    return np.clip(0.7 * observation[..., 2:4], -1, 1)


def main(steps: int = 5_000) -> TeacherStudent:
    config = {"net_arch": (32, 32), "batch_size": 64, "distill_batch_size": 64, "buffer_size": 50_000, "eval_freq": 0}
    students = TeacherStudent("PolicyKD/PointReach-v0", hesitant, backbone="td3", seeds=(0, 1, 2), config=config)
    print(students.score_teacher())
    students.learn(steps)
    print(f"students: {students.evaluate(50, seed=1).means.round(1)}")
    changes = {"critic_steps": steps // 2, "anchor_distance": 0.3, "fine_tune_learning_rate": 3e-4}
    students.fine_tune(2 * steps, config=changes)
    print(f"after fine-tuning, from the same initial states: {students.evaluate(50, seed=1).means.round(1)}")
    return students


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=5_000)
    main(parser.parse_args().steps)
