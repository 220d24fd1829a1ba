"""Observation groups: a privileged teacher reads the simulator's state, the student only a robot's sensors."""

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from policykd import TeacherStudent


class Reach(gym.Env):
    """A point moves to a goal; its dict observation includes the vector to the goal, known only in simulation."""

    observation_space = spaces.Dict(
        {
            "robot": spaces.Dict({"position": spaces.Box(-1, 1, (2,)), "goal": spaces.Box(-1, 1, (2,))}),
            "simulator": spaces.Box(-2, 2, (2,)),
        }
    )
    action_space = spaces.Box(-1, 1, (2,))

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[dict[str, Any], dict]:
        super().reset(seed=seed)
        self.position, self.goal = self.np_random.uniform(-1, 1, (2, 2))
        self.steps = 0
        return self.observe(), {}

    def step(self, action: np.ndarray) -> tuple[dict[str, Any], float, bool, bool, dict]:
        self.position = np.clip(self.position + 0.1 * action, -1, 1)
        self.steps += 1
        distance = float(np.linalg.norm(self.goal - self.position))
        return self.observe(), -distance, False, self.steps >= 50, {}

    def observe(self) -> dict[str, Any]:
        robot = {"position": self.position.astype(np.float32), "goal": self.goal.astype(np.float32)}
        return {"robot": robot, "simulator": (self.goal - self.position).astype(np.float32)}


def teacher(way: np.ndarray) -> np.ndarray:
    """Move along the vector to the goal, which only the simulator knows."""
    return np.clip(10 * way, -1, 1)


def main(steps: int = 8_000) -> TeacherStudent:
    config = {"teacher_observations": "simulator", "student_observations": "robot", "eval_freq": 0}
    config |= {"round_steps": 500, "round_updates": 500, "net_arch": (64, 64)}
    students = TeacherStudent(Reach, teacher, seeds=(0, 1), config=config)
    students.learn(steps)
    print(students.score_teacher())
    print(f"students of {students.view.part_size} numbers:", students.evaluate(20).returns.mean(1).round(1))
    observation, _ = Reach().reset(seed=0)
    print("action at a dict:", students.predict(observation)[0])
    return students


if __name__ == "__main__":
    main()
