"""A batched simulator: one call steps all environments of all learners, on CPU or GPU.

    python examples/batched_env.py --num-envs 16

A function of ``num_envs`` makes a Gymnasium ``VectorEnv``: one for training, and small ones for evaluation. It takes
and returns tensors, which stay on their device. Copies of a Gymnasium task in separate processes work too:
``DualStudent(lambda num_envs: gym.make_vec("Hopper-v5", num_envs, vectorization_mode="async"))``.
"""

from __future__ import annotations

import argparse
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from policykd import DualStudent

STEPS = 100
"""Steps per episode, which is then truncated: the target still bootstraps."""


class Balance(VectorEnv):
    """Keep poles of length 1 upright by torques at their bases; a pole has fallen at an angle of 0.5 rad."""

    def __init__(self, num_envs: int, device: str = "cpu") -> None:
        self.metadata = {"autoreset_mode": AutoresetMode.SAME_STEP}  # fallen poles are reset in the same step
        self.num_envs, self.device = num_envs, torch.device(device)
        self.single_observation_space = gym.spaces.Box(-np.inf, np.inf, (2,), np.float32)  # angle, angular velocity
        self.single_action_space = gym.spaces.Box(-20.0, 20.0, (1,), np.float32)  # torque
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self.generator = torch.Generator(self.device)
        self.state = torch.zeros(num_envs, 2, device=self.device)
        self.steps = torch.zeros(num_envs, dtype=torch.long, device=self.device)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[torch.Tensor, dict]:
        if seed is not None:
            self.generator.manual_seed(seed)
        self.begin(torch.ones(self.num_envs, dtype=torch.bool, device=self.device))
        return self.state, {}

    def begin(self, which: torch.Tensor) -> None:
        drawn = torch.rand(self.num_envs, 2, generator=self.generator, device=self.device) * 0.4 - 0.2
        self.state = torch.where(which.unsqueeze(1), drawn, self.state)
        self.steps = torch.where(which, 0, self.steps)

    def step(self, actions: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, dict]:
        angle, velocity = self.state.unbind(1)
        velocity = velocity + 0.02 * (9.81 * angle.sin() + actions[:, 0])
        angle = angle + 0.02 * velocity
        self.state, self.steps = torch.stack((angle, velocity), 1), self.steps + 1
        terminated, truncated = angle.abs() > 0.5, self.steps >= STEPS
        final = self.state
        self.begin(terminated | truncated)
        return self.state, 1.0 - angle.square(), terminated, truncated, {"final_obs": final}


def main(num_envs: int = 16, steps: int = 20_000) -> DualStudent:
    config = {"n_envs": num_envs, "gradient_steps": 4, "learning_starts": 500, "net_arch": (32, 32), "batch_size": 64}
    config |= {"eval_freq": steps // 4, "buffer_size": 20_000, "n_eval_episodes": 5}
    agent = DualStudent(Balance, backbone="td3", config=config)
    agent.learn(steps, progress_bar=True)
    for at, evaluation in zip(agent.evaluation_steps, agent.evaluations, strict=True):
        print(f"{at:,} steps: returns of the two peers {evaluation.returns.mean(1).round(1)}")
    return agent


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--num-envs", type=int, default=16)
    parser.add_argument("--steps", type=int, default=20_000)
    arguments = parser.parse_args()
    main(arguments.num_envs, arguments.steps)
