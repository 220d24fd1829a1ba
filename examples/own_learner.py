"""A custom RL algorithm as backbone: a class of learners, here TD3 with actors that maximise the mean of both critics.

    python examples/own_learner.py
    cd examples; policykd --plugins own_learner train --env PolicyKD/PointReach-v0 --backbone mean_td3

Everything else - replay, peers, distillation, checkpoints, evaluation, run folders - works with it unchanged.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass

from torch import Tensor

from policykd import DualStudent
from policykd.core.networks import Loss, gradient
from policykd.learners import LEARNERS, TD3
from policykd.learners.config import TD3Config
from policykd.learners.off_policy import beside_teacher
from policykd.memory.replay import Batch


@dataclass(frozen=True)
class MeanTD3Config(TD3Config):
    """TD3's settings plus an action cost."""

    action_cost: float = 0.0
    """Weight of the squared action in the actors' loss."""


class MeanTD3(TD3):
    """TD3 whose actors maximise the mean of both critics and pay for large actions."""

    name = "mean_td3"
    config_type = MeanTD3Config
    sb3 = None  # Stable-Baselines3 has no such algorithm: best models are written in policykd's own format
    config: MeanTD3Config

    def update_actor(self, batch: Batch, teacher: Loss | None = None) -> dict[str, Tensor]:
        def loss(actor: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
            actions = self.policy(actor, batch.observations)
            values = self.q_values(self.critic, batch.observations, actions).mean(1)
            costs = self.config.action_cost * actions.square().sum(-1).mean(1)
            losses, info = beside_teacher(costs - values.mean(1), values, actor, teacher)  # of methods with one loss
            return losses, {"train/actor_loss": losses.detach(), **info}

        gradients, info = gradient(loss, self.actor)
        self.actor_adam.step(self.actor, gradients, self.learning_rate)
        return info


LEARNERS["mean_td3"] = MeanTD3  # a name, for command lines and benchmark files


def main(steps: int = 5_000) -> DualStudent:
    config = {"net_arch": (64, 64), "batch_size": 64, "learning_starts": 200, "action_cost": 0.01, "eval_freq": 0}
    agent = DualStudent("PolicyKD/PointReach-v0", method="dpd", backbone=MeanTD3, config=config)
    agent.learn(steps, progress_bar=True)
    print(f"returns of the two peers: {agent.evaluations[-1].returns.mean(1).round(1)}")
    return agent


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=5_000)
    main(parser.parse_args().steps)
