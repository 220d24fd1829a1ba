"""Train pairs of peers that learn from one another, and keep the better peer of each pair as an SB3 model.

    python scripts/train_peers.py
    python scripts/train_peers.py --env Hopper-v5 --backbone sac --seeds 0 1 2 3 4 --steps 300000

Each run needs a folder of its own: name another one with --out.
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
    # One pair of peers per seed. All of them train together, as rows of the same tensors.
    agent = DualStudent(
        env,
        method=method,
        backbone=backbone,
        peers=2,
        seeds=seeds,
        config="zoo",  # the settings of rl-baselines3-zoo for this task; any of them can be changed below
        overrides={"eval_freq": max(1, steps // 20), "n_eval_episodes": 5},
        run_dir=out,  # logs, evaluations and checkpoints: DualStudent.load(out) goes on where it stopped
    )
    agent.learn(steps, progress_bar=True)  # environment steps of a pair, both peers together

    # Peers are compared on episodes that neither training nor its evaluations have used.
    returns = agent.evaluate(20, seed=1_000_000).returns  # (learners, episodes)
    for learner, (seed, peer) in enumerate(agent.learners):
        print(f"seed {seed}, peer {peer}: return {returns[learner].mean():,.1f}")
    for seed in seeds:
        pair = [learner for learner, (own, _) in enumerate(agent.learners) if own == seed]
        best = max(pair, key=lambda learner: agent.evaluations[-1].returns[learner].mean())
        to_zip(agent, best, out / f"seed_{seed}.zip")  # loads in plain SB3; PPO's normaliser lies beside it
    print(f"models in {out}; curves: tensorboard --logdir {out}")


if __name__ == "__main__":
    guarded(lambda: tyro.cli(main, description=__doc__))
