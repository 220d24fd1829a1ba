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


@pytest.mark.parametrize(
    "backbone", [pytest.param("ddpg", marks=pytest.mark.slow), pytest.param("td3", marks=pytest.mark.nightly)]
)
def test_both_peers_solve_point_reach(backbone):
    # The preset as it is. At this length all 12 learners of the seeds 0 to 5 were above -11, DDPG's and TD3's.
    agent = DualStudent(POINT, method="dpd", backbone=backbone, seeds=(0,), config="quick")
    threshold = gym.spec(POINT).reward_threshold
    assert threshold == -12
    assert (mean_returns(agent, 50) < -30).all()
    agent.learn(6000)
    assert (mean_returns(agent, 100) >= threshold).all()


class StopWhenSolved(BaseCallback):
    """Ends training when both peers of some group were at the threshold in the last two evaluations."""

    def __init__(self, threshold):
        super().__init__()
        self.threshold = threshold

    def _on_step(self):
        last = [evaluation.returns.mean(1) for evaluation in self.model.evaluations[-2:]]
        return len(last) < 2 or not (np.stack(last).reshape(2, -1, 2) >= self.threshold).all((0, 2)).any()


@pytest.mark.nightly
@pytest.mark.parametrize("backbone", ["ddpg", "td3"])
def test_both_peers_of_some_group_solve_the_inverted_pendulum(backbone):
    # The preset's settings. Of eight seeds both peers were solved within 20,000 steps in six groups or more with
    # either backbone, and another rounding of the last bit makes it other groups. What balances now may fall again some
    # updates later: hence stop once it holds, and judge by initial states not seen on the way.
    often = {"n_eval_episodes": 5, "eval_freq": 500}
    agent = DualStudent(PENDULUM, method="dpd", backbone=backbone, seeds=(0, 1, 2), config="quick", overrides=often)
    threshold = gym.spec(PENDULUM).reward_threshold
    assert threshold == 950
    assert (mean_returns(agent, 10) < 100).all()
    agent.learn(20_000, callback=StopWhenSolved(threshold))
    returns = mean_returns(agent, 20)
    assert (returns.reshape(3, 2) >= threshold).all(1).any(), agent.num_timesteps
