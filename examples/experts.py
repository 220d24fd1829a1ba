"""Imperfect experts: a stateful controller of which only good episodes are kept, and two experts with partial skills.

    python examples/experts.py

The controller integrates its error, so its actions depend on the past: students imitate recorded episodes.
In the second part, two experts each reach half of the goals, and the student learns to reach all of them.
"""

from __future__ import annotations

import argparse

import numpy as np

from policykd import TeacherStudent
from policykd.teachers.demonstrations import demonstrate

POINT = "PolicyKD/PointReach-v0"  # observation: position, vector to the goal
CONFIG = {"net_arch": (32, 32), "eval_freq": 0}


class Integrating:
    """A proportional-integral controller that acts carelessly in every third episode."""

    def __init__(self) -> None:
        self.episode = -1

    def reset(self) -> None:
        self.sum = np.zeros(2)
        self.episode += 1

    def __call__(self, observation: np.ndarray) -> np.ndarray:
        to_goal = observation[2:4]
        self.sum += to_goal
        return np.clip((1 if self.episode % 3 == 0 else 8) * to_goal + 0.05 * self.sum, -1, 1)


def to_the_right(observation: np.ndarray) -> np.ndarray:
    """Move to goals on the right; otherwise stay."""
    return np.clip(10 * observation[..., 2:4], -1, 1) * (observation[..., 2:3] > 0)


def to_the_left(observation: np.ndarray) -> np.ndarray:
    """Move to goals on the left; otherwise stay."""
    return np.clip(10 * observation[..., 2:4], -1, 1) * (observation[..., 2:3] <= 0)


def main(episodes: int = 90, gradient_steps: int = 5_000, steps: int = 5_000) -> tuple[TeacherStudent, TeacherStudent]:
    data = demonstrate(Integrating(), POINT, episodes, keep=1 / 3)  # the better two thirds by return
    print(f"{len(data.returns)} episodes kept of {episodes}, mean return {data.returns.mean():.1f}")
    copied = TeacherStudent(POINT, None, config=CONFIG).learn_from(data, gradient_steps)
    print(f"student of the episodes: {copied.evaluate(50).returns.mean():.1f}")

    taught = TeacherStudent(
        POINT,
        [to_the_left, to_the_right],
        config={**CONFIG, "several_teachers": "by_task"},
        task_of=lambda observations: (observations[..., 2] > 0).long(),
    )
    taught.learn(steps, progress_bar=True)
    print(f"student of both experts: {taught.evaluate(50).returns.mean():.1f}")
    return copied, taught


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=5_000)
    main(steps=parser.parse_args().steps)
