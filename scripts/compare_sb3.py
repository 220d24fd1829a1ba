"""Compare two peers with one SB3 agent, with the same environment steps, networks and evaluation episodes.

    python scripts/compare_sb3.py --env Hopper-v5 --steps 50000

A single seed does not show which side is better: for that, see scripts/benchmark.py.
"""

import gymnasium as gym
import numpy as np
import tyro
from stable_baselines3 import TD3
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.noise import NormalActionNoise
from stable_baselines3.common.vec_env import DummyVecEnv

from policykd import DualStudent
from policykd.cli import guarded


def main(env: str = "HalfCheetah-v5", steps: int = 50_000, seed: int = 0, episodes: int = 20) -> None:
    actions = sum(gym.make(env).action_space.shape or ())
    size, noise, starts = (64, 64), 0.1, min(500, steps // 4)
    settings = {"net_arch": size, "action_noise_std": noise, "learning_starts": starts, "eval_freq": steps // 10}
    peers = DualStudent(env, method="dpd", backbone="td3", peers=2, seeds=(seed,), config=settings)
    peers.learn(steps, progress_bar=True)  # shared by both peers: each takes half of the steps

    sb3 = TD3(
        "MlpPolicy",
        env,
        seed=seed,
        learning_starts=starts,
        action_noise=NormalActionNoise(np.zeros(actions), np.full(actions, noise)),
        policy_kwargs={"net_arch": list(size)},
        device="cpu",
    )
    sb3.learn(steps, progress_bar=True)

    # The better peer is selected by evaluations during training, and measured on new episodes, the same as SB3's.
    for name, model in (("better peer, as an SB3 model", peers.to_sb3("best")), ("SB3's TD3", sb3)):
        test = DummyVecEnv([lambda: Monitor(gym.make(env))])
        test.seed(1_000_000)
        returns, _ = evaluate_policy(model, test, episodes, return_episode_rewards=True)
        print(f"{name}: {np.mean(returns):,.1f} +/- {np.std(returns):,.1f} over {episodes} episodes")


if __name__ == "__main__":
    guarded(lambda: tyro.cli(main, description=__doc__))
