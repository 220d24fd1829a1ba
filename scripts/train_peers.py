"""Train pairs of peers that distil from one another, and save the better peer of each pair as an SB3 model.

    python scripts/train_peers.py
    python scripts/train_peers.py --env Hopper-v5 --backbone sac --seeds 0 1 2 3 4 --steps 300000

Each run needs its own folder: choose another one with --out.
"""

from pathlib import Path
from typing import Literal

import tyro

from policykd import DualStudent
from policykd.cli import guarded
from policykd.export.zoo import to_zip


def main(
    env: str = "HalfCheetah-v5",
    method: str = "dpd",
    backbone: Literal["ddpg", "td3", "sac", "ppo"] = "td3",
    steps: int = 100_000,
    seeds: tuple[int, ...] = (0, 1, 2),
    out: Path = Path("runs/train_peers"),
) -> None:
    # One pair of peers per seed. All pairs train at once, as rows of the same tensors.
    agent = DualStudent(
        env,
        method=method,
        backbone=backbone,
        peers=2,
        seeds=seeds,
        config="zoo",  # rl-baselines3-zoo's settings for this task, which can be overridden below
        overrides={"eval_freq": max(1, steps // 20), "n_eval_episodes": 5},
        run_dir=out,  # logs, evaluations and checkpoints: DualStudent.load(out) resumes the run
    )
    agent.learn(steps, progress_bar=True)  # environment steps per pair, shared by both peers

    # Peers are compared on episodes that neither training nor its evaluations used.
    returns = agent.evaluate(20, seed=1_000_000).returns  # (learners, episodes)
    for learner, (seed, peer) in enumerate(agent.learners):
        print(f"seed {seed}, peer {peer}: return {returns[learner].mean():,.1f}")
    for seed in seeds:
        pair = [learner for learner, (own, _) in enumerate(agent.learners) if own == seed]
        best = max(pair, key=lambda learner: agent.evaluations[-1].returns[learner].mean())
        to_zip(agent, best, out / f"seed_{seed}.zip")  # loads in plain SB3; PPO's normaliser is a second file
    print(f"models in {out}; curves: tensorboard --logdir {out}")


if __name__ == "__main__":
    guarded(lambda: tyro.cli(main, description=__doc__))
