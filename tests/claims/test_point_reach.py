"""What simple controllers return on PointReach, beside what its docstring and sparse.yaml say."""

import re
from pathlib import Path

import gymnasium as gym
import numpy as np
from policykd_envs import PointReach

from policykd.benchmark.random_actions import random_returns
from policykd.benchmark.spec_file import load_spec

DENSE, SPARSE = "PolicyKD/PointReach-v0", "PolicyKD/PointReachSparse-v0"
EPISODES = 200


def still(observation):
    return np.zeros(2)


def full_speed(observation):
    return observation[2:] / max(float(np.linalg.norm(observation[2:])), 1e-9)


def controller(observation):
    return np.clip(10 * observation[2:], -1, 1)


def returns(task, policy):
    with gym.make(task) as env:
        for seed in range(EPISODES):
            observation, _ = env.reset(seed=seed)
            total, truncated = 0.0, False
            while not truncated:
                observation, reward, _, truncated, _ = env.step(policy(observation))
                total += reward
            yield total


def says(stated, measured):
    """Whether a mean of other initial states may be ``stated``: within three standard errors."""
    return abs(stated - np.mean(measured)) <= 3 * np.std(measured) / len(measured) ** 0.5 + 0.05


def test_what_the_docstring_says():
    text = " ".join(PointReach.__doc__.split())
    numbers = r"random actions (\S+), standing still (\S+), full speed .*? down (\S+), the .*?`` (\S+)\. The"
    random, *stated = map(float, re.search(numbers, text).groups())
    assert says(random, random_returns(DENSE, EPISODES, seed=0))
    for number, policy in zip(stated, (still, full_speed, controller), strict=True):
        assert says(number, list(returns(DENSE, policy)))
    assert 4 < np.std(list(returns(DENSE, controller))) < 5


def test_what_counts_as_0_and_1_where_rewards_are_sparse():
    root = Path(__file__).parents[2]
    reference = load_spec(root / "experiments/peers/sparse.yaml").tasks[SPARSE].reference
    assert says(reference.low, random_returns(SPARSE, EPISODES, seed=0))
    assert says(reference.high, list(returns(SPARSE, controller)))
