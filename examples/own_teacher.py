"""Students of a custom teacher: any function from observations to actions, such as a controller or a planner.

    python examples/own_teacher.py --out students.safetensors

The function takes one observation or a batch in the task's units, and returns actions in the task's units.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from policykd import TeacherStudent


def swing_up(observation: np.ndarray) -> np.ndarray:
    """Energy shaping for Pendulum-v1, and a PD controller near the top; observation: cos, sin, angular velocity."""
    cosine, sine, velocity = observation[..., 0], observation[..., 1], observation[..., 2]
    energy = velocity**2 / 6 + 5 * (cosine - 1)  # 0 when upright and at rest
    pump = -2 * np.sign(velocity * energy + 1e-9)
    balance = -20 * np.arctan2(sine, cosine) - 4 * velocity
    torque = np.where(cosine > 0.9, balance, pump)
    return np.clip(torque, -2, 2)[..., None]


def main(steps: int = 20_000, out: Path | None = None) -> TeacherStudent:
    students = TeacherStudent("Pendulum-v1", swing_up, method="dagger", seeds=(0, 1, 2), config={"net_arch": (32, 32)})
    print(students.score_teacher())
    students.learn(steps, progress_bar=True)
    returns = students.evaluate(20, seed=1_000_000).returns
    print(f"students, {returns.shape[1]} episodes each: {returns.mean(1).round(1)}")
    if out:
        students.save(out)  # TeacherStudent.load(out, teacher=swing_up) resumes
    return students


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=20_000)
    parser.add_argument("--out", type=Path, help="keep the students in this file")
    main(**vars(parser.parse_args()))
