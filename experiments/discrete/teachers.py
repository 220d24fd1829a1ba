"""Teachers that choose one of several actions: two agents of SB3 on CartPole, and Gymnasium's scripted lunar lander.

The agents are trained where their files are missing, by the settings of rl-baselines3-zoo: PPO in 30,000 steps of one
environment (the zoo has 100,000 of eight), DQN in its 50,000. A run of DQN may end with an agent that has forgotten
what it knew: the teacher is that of the first seed which solves the task.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gymnasium as gym
import numpy as np
from stable_baselines3 import DQN, PPO
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor

CARTPOLE, LUNAR = "CartPole-v1", "LunarLander-v3"
STEPS = {"ppo": 30_000, "dqn": 50_000}
SEEDS = range(10)
"""Of the agents' training, in this order."""
SOLVED = 475.0
"""Return at which Gymnasium calls CartPole solved."""


def _ppo(seed: int) -> PPO:
    settings: dict[str, Any] = {"n_steps": 256, "gae_lambda": 0.8, "gamma": 0.98, "n_epochs": 20, "learning_rate": 1e-3}
    return PPO("MlpPolicy", gym.make(CARTPOLE), seed=seed, device="cpu", **settings)


def _dqn(seed: int) -> DQN:
    settings: dict[str, Any] = {"learning_rate": 2.3e-3, "batch_size": 64, "buffer_size": 100_000, "gamma": 0.99}
    settings |= {"learning_starts": 1_000, "target_update_interval": 10, "train_freq": 256, "gradient_steps": 128}
    settings |= {"exploration_fraction": 0.16, "exploration_final_eps": 0.04, "policy_kwargs": {"net_arch": [256, 256]}}
    return DQN("MlpPolicy", gym.make(CARTPOLE), seed=seed, device="cpu", **settings)


MAKE: dict[str, Callable[[int], Any]] = {"ppo": _ppo, "dqn": _dqn}


def trained(name: str, folder: Path) -> Path:
    """The file of an agent, trained where it is missing."""
    path = folder / f"{name}_cartpole.zip"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        agents = (MAKE[name](seed).learn(STEPS[name]) for seed in SEEDS)
        next(agent for agent in agents if _return(agent) >= SOLVED).save(path)
    return path


def _return(agent: Any) -> float:
    """Mean return of 20 episodes."""
    mean, _ = evaluate_policy(agent, Monitor(gym.make(CARTPOLE)), 20)
    return float(np.mean(mean))


def lander(observation: np.ndarray) -> int:
    """Gymnasium's scripted lunar lander."""
    from gymnasium.envs.box2d.lunar_lander import heuristic

    choosing: Any = SimpleNamespace(unwrapped=SimpleNamespace(continuous=False))
    return int(heuristic(choosing, observation))
