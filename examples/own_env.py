"""Peers on a custom environment: register it, and its id works everywhere, including the command line.

    python examples/own_env.py
    cd examples; PYTHONPATH=. policykd train --env own_env:Balance-v0 --backbone td3 --total-timesteps 10000

It needs vector observations and bounded continuous actions. `terminated` ends the task, with no further reward;
`truncated` is a time limit, at which the target still bootstraps.
"""

from __future__ import annotations

import argparse
from typing import Any

import gymnasium as gym
import numpy as np

from policykd import DualStudent


class Balance(gym.Env):
    """Keep a pole of length 1 upright by a torque at its base; it has fallen at an angle of 0.5 rad."""

    def __init__(self) -> None:
        self.observation_space = gym.spaces.Box(-np.inf, np.inf, (2,), np.float32)  # angle, angular velocity
        self.action_space = gym.spaces.Box(-20.0, 20.0, (1,), np.float32)  # torque; learners see it as [-1, 1]

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)  # seeds self.np_random: draw everything from it
        self.state = self.np_random.uniform(-0.2, 0.2, 2)
        return self.state.astype(np.float32), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict]:
        angle, velocity = self.state
        velocity += 0.02 * (9.81 * np.sin(angle) + float(action[0]))
        angle += 0.02 * velocity
        self.state = np.array([angle, velocity])
        fallen = bool(abs(angle) > 0.5)
        return self.state.astype(np.float32), 1.0 - float(angle) ** 2, fallen, False, {}


gym.register("Balance-v0", entry_point=Balance, max_episode_steps=200)


def main(steps: int = 10_000) -> DualStudent:
    agent = DualStudent("Balance-v0", backbone="td3", config="quick", overrides={"eval_freq": max(1, steps // 5)})
    agent.learn(steps, progress_bar=True)
    for at, evaluation in zip(agent.evaluation_steps, agent.evaluations, strict=True):
        print(f"{at:,} steps: returns of the two peers {evaluation.returns.mean(1).round(1)}")
    return agent


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=10_000)
    main(parser.parse_args().steps)
