"""DPD learns: both peers, not the better one alone, reach the reward threshold at which a task counts as solved."""

import gymnasium as gym
import numpy as np
import pytest
from stable_baselines3.common.callbacks import BaseCallback

from policykd import DualStudent

POINT, PENDULUM = "PolicyKD/PointReach-v0", "InvertedPendulum-v5"


def mean_returns(agent, episodes):
    """Every learner's mean return from starts that training and its evaluations have not used."""
    return agent.evaluate(episodes, seed=10**6).returns.mean(1)


@pytest.mark.parametrize("backbone", ["ddpg", "td3"])
def test_both_peers_solve_point_reach(backbone):
    # The preset as it is. With 6000 steps all 12 learners of the seeds 0 to 5 were above -11, DDPG's and TD3's.
    agent = DualStudent(POINT, method="dpd", backbone=backbone, seeds=(0,), config="quick")
    threshold = gym.spec(POINT).reward_threshold
    assert threshold == -12
    assert (mean_returns(agent, 50) < -30).all()
    agent.learn(8000)
    assert (mean_returns(agent, 100) >= threshold).all()


class StopWhenSolved(BaseCallback):
    """Ends training when every learner was at the threshold in the last two evaluations."""

    def __init__(self, threshold):
        super().__init__()
        self.threshold = threshold

    def _on_step(self):
        last = [evaluation.returns.mean(1) for evaluation in self.model.evaluations[-2:]]
        return len(last) < 2 or bool((np.stack(last) < self.threshold).any())


@pytest.mark.slow
@pytest.mark.parametrize("backbone", ["ddpg", "td3"])
def test_both_peers_solve_the_inverted_pendulum(backbone):
    # The preset's settings. So trained, both peers of the seeds 0 to 3 were solved after 7,000 to 13,000 steps with
    # either backbone; of the seeds 4 to 7, within 20,000, three with TD3 and two with DDPG. What balances now may fall
    # again some updates later: hence stop once it holds, and judge by starts not seen on the way.
    often = {"n_eval_episodes": 5, "eval_freq": 500}
    agent = DualStudent(PENDULUM, method="dpd", backbone=backbone, seeds=(0,), config="quick", overrides=often)
    threshold = gym.spec(PENDULUM).reward_threshold
    assert threshold == 950
    assert (mean_returns(agent, 10) < 100).all()
    agent.learn(20_000, callback=StopWhenSolved(threshold))
    returns = mean_returns(agent, 20)
    assert returns.shape == (2,) and (returns >= threshold).all(), agent.num_timesteps
