"""Offline distillation: train students of an agent on logged states, without environment steps.

    python examples/offline.py

The log may be an .npz file of "observations" (and "actions"), an HDF5 file of D4RL or Minari, or an SB3 replay
buffer. Here an SB3 agent is trained on CartPole, and its own steps are the log.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from stable_baselines3 import PPO

from policykd import TeacherStudent
from policykd.teachers.demonstrations import demonstrate

TASK = "CartPole-v1"


def main(teacher_steps: int = 30_000, episodes: int = 20, gradient_steps: int = 3_000) -> TeacherStudent:
    teacher = PPO("MlpPolicy", TASK, n_steps=256, gae_lambda=0.8, gamma=0.98, n_epochs=20, learning_rate=1e-3, seed=0)
    teacher.learn(teacher_steps)
    log = demonstrate(lambda observation: teacher.predict(observation, deterministic=True)[0], TASK, episodes)

    with TemporaryDirectory() as folder:
        file = Path(folder) / "log.npz"
        np.savez(file, observations=log.observations, actions=log.actions.argmax(1))
        for who, asked in (("the teacher answers at the states", teacher), ("what was done is copied", None)):
            students = TeacherStudent(TASK, asked, seeds=(0, 1, 2), config={"net_arch": (16, 16)})
            students.learn_from(file, gradient_steps)
            returns = students.evaluate(20, seed=1_000_000).returns.mean(1)
            print(f"{who}: returns {returns.round(1)}, teacher {log.returns.mean():.1f}, {len(log.actions):,} states")
    return students


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--teacher-steps", type=int, default=30_000)
    parser.add_argument("--episodes", type=int, default=20)
    parser.add_argument("--gradient-steps", type=int, default=3_000)
    options = parser.parse_args()
    main(options.teacher_steps, options.episodes, options.gradient_steps)
