"""Log a run to Weights & Biases: pip install wandb.

    WANDB_MODE=offline python examples/log_to_wandb.py    # no account and no network; `wandb sync` sends it later

Callbacks of Stable-Baselines3 work with policykd. This one logs means over the learners, and the return of every
learner at each evaluation.
"""

from __future__ import annotations

import argparse

import wandb
from stable_baselines3.common.callbacks import BaseCallback

from policykd import DualStudent


class LogToWandb(BaseCallback):
    """Send every row of SB3's logger, and every evaluation."""

    def __init__(self, agent: DualStudent, every: int) -> None:
        super().__init__()
        self.agent, self.every, self.evaluations = agent, every, 0

    def _on_step(self) -> bool:
        row = {}
        if self.n_calls % self.every == 0:
            row = {name: value for name, value in self.logger.name_to_value.items() if isinstance(value, int | float)}
        if len(self.agent.evaluations) > self.evaluations:
            self.evaluations = len(self.agent.evaluations)
            returns = self.agent.evaluations[-1].returns.mean(1)
            for (seed, peer), value in zip(self.agent.learners, returns, strict=True):
                row[f"eval/return seed {seed} peer {peer}"] = float(value)
        if row:
            wandb.log(row, step=self.agent.num_timesteps)
        return True


def main(env: str = "Pendulum-v1", steps: int = 20_000) -> None:
    agent = DualStudent(env, backbone="td3", seeds=(0, 1), config="quick", overrides={"eval_freq": max(1, steps // 10)})
    with wandb.init(project="policykd", name=f"dpd {env}", config=agent.settings):
        agent.learn(steps, callback=LogToWandb(agent, every=max(1, steps // 100)), progress_bar=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--env", default="Pendulum-v1")
    parser.add_argument("--steps", type=int, default=20_000)
    main(**vars(parser.parse_args()))
