"""Evaluate every learner of a run on episodes not used in training.

python scripts/evaluate.py runs/train_peers
"""

from pathlib import Path

import tyro

from policykd.cli import guarded
from policykd.training.loading import load_agent


def main(run: tyro.conf.Positional[Path], env: str | None = None, episodes: int = 20, seed: int = 1_000_000) -> None:
    agent = load_agent(run, env)  # a run folder or a saved file, of peers or of students
    result = agent.evaluate(episodes, seed=seed)  # the same initial states for every learner, no exploration noise
    print(f"{agent.env_id} after {agent.num_timesteps:,} steps, {episodes} episodes from seed {seed}")
    for (own_seed, peer), returns, lengths in zip(agent.learners, result.returns, result.lengths, strict=True):
        print(
            f"seed {own_seed}, peer {peer}: return {returns.mean():,.1f} +/- {returns.std():,.1f}, "
            f"{lengths.mean():,.0f} steps an episode"
        )


if __name__ == "__main__":
    guarded(lambda: tyro.cli(main, description=__doc__))
