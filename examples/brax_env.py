"""Brax as the environments of all learners: physics in JAX, learning in torch, arrays shared without a copy.

    pip install brax
    python examples/brax_env.py --task reacher --num-envs 16

One call of a compiled function steps all environments of all learners. DLPack shares arrays in place, so that on a GPU
only the flags of ended episodes are copied to the CPU.
"""

from __future__ import annotations

import argparse
from typing import Any

import brax.envs
import gymnasium as gym
import jax
import jax.numpy as jnp
import numpy as np
import torch
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from policykd import DualStudent


class Brax(VectorEnv):
    """A task of Brax, with environments reset in the step in which their episode ends."""

    def __init__(self, num_envs: int, task: str = "reacher", episode_length: int = 200) -> None:
        env = brax.envs.get_environment(task, backend="generalized")
        self.task, self.metadata, self.num_envs = task, {"autoreset_mode": AutoresetMode.SAME_STEP}, num_envs
        self.single_observation_space = gym.spaces.Box(-np.inf, np.inf, (env.observation_size,), np.float32)
        self.single_action_space = gym.spaces.Box(-1.0, 1.0, (env.action_size,), np.float32)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        begin = jax.vmap(env.reset)

        def step(state: Any, steps: Any, key: Any, actions: Any) -> tuple[Any, ...]:
            state, steps = jax.vmap(env.step)(state, actions), steps + 1
            terminated, reward, final = state.done > 0, state.reward, state.obs
            truncated = (steps >= episode_length) & ~terminated
            ended = terminated | truncated
            key, *keys = jax.random.split(key, num_envs + 1)

            def where(new: Any, old: Any) -> Any:
                return jnp.where(ended.reshape(-1, *[1] * (old.ndim - 1)), new, old)

            state = jax.tree.map(where, begin(jnp.stack(keys)), state)
            return state, jnp.where(ended, 0, steps), key, (reward, terminated, truncated, final)

        self.begin, self.advance = jax.jit(begin), jax.jit(step)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[torch.Tensor, dict]:
        self.key, *keys = jax.random.split(jax.random.PRNGKey(seed or 0), self.num_envs + 1)
        self.state, self.steps = self.begin(jnp.stack(keys)), jnp.zeros(self.num_envs, jnp.int32)
        return torch.from_dlpack(self.state.obs), {}

    def step(self, actions: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, dict]:
        given = jnp.from_dlpack(actions.contiguous())
        self.state, self.steps, self.key, seen = self.advance(self.state, self.steps, self.key, given)
        reward, terminated, truncated, final = map(torch.from_dlpack, seen)
        return torch.from_dlpack(self.state.obs), reward, terminated, truncated, {"final_obs": final}


def main(task: str = "reacher", num_envs: int = 16, steps: int = 20_000) -> DualStudent:
    def make(num_envs: int) -> Brax:
        return Brax(num_envs, task)

    config = {"n_envs": num_envs, "gradient_steps": 4, "learning_starts": 500, "net_arch": (32, 32), "batch_size": 64}
    config |= {"eval_freq": steps // 4, "buffer_size": 20_000, "n_eval_episodes": 5}
    agent = DualStudent(make, backbone="td3", config=config)
    agent.learn(steps, progress_bar=True)
    for at, evaluation in zip(agent.evaluation_steps, agent.evaluations, strict=True):
        print(f"{at:,} steps: returns of the two peers {evaluation.returns.mean(1).round(1)}")
    return agent


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", default="reacher", help="a task of Brax with actions from -1 to 1")
    parser.add_argument("--num-envs", type=int, default=16)
    parser.add_argument("--steps", type=int, default=20_000)
    arguments = parser.parse_args()
    main(arguments.task, arguments.num_envs, arguments.steps)
