"""Evaluation: whose episode counts, from where to where."""

import gymnasium as gym
import numpy as np

from policykd.tasks import evaluate
from policykd.tasks.evaluate import Evaluator


class Three(gym.Env):
    """Three steps, or for ever; a step's reward is its action."""

    observation_space = action_space = gym.spaces.Box(-1, 1, (1,), np.float32)

    def __init__(self, ends=True):
        self.ends = ends

    def reset(self, *, seed=None, options=None):
        self.at = 0
        return np.zeros(1, np.float32), {}

    def step(self, action):
        self.at += 1
        return np.zeros(1, np.float32), float(action[0]), self.ends and self.at == 3, False, {}


def test_episodes_of_an_evaluation_are_counted_apart_and_from_where_a_policy_diverges_not_at_all():
    evaluator, begun = Evaluator(Three, 2, lambda actions: actions), []

    def act(observations):
        begun.append(evaluator.starts.tolist())
        return np.array([[0.5], [np.nan if len(begun) == 5 else 1.0]])

    result = evaluator.run(act, 3, [0, 1], 0)
    np.testing.assert_array_equal(result.returns, [[1.5, 1.5, 1.5], [3, np.nan, np.nan]])
    assert result.lengths.tolist() == [[3, 3, 3], [3, 1, 0]]
    assert result.means.tolist() == [1.5, -np.inf]
    assert [starts[0] for starts in begun] == [True, False, False] * 3
    assert [starts[1] for starts in begun[:5]] == [True, False, False, True, False]
    del begun[:]
    evaluator.run(act, 1, [0, 1], 1)
    assert begun == [[True, True], [False, False], [False, False]]


def test_an_episode_without_an_end_counts_up_to_the_limit(monkeypatch):
    monkeypatch.setattr(evaluate, "EPISODE_LIMIT", 4)
    result = Evaluator(lambda: Three(ends=False), 1, lambda actions: actions).run(lambda seen: seen + 0.5, 3, [0], 0)
    assert (result.lengths.tolist(), result.returns.tolist()) == ([[4, 4, 4]], [[2.0, 2.0, 2.0]])


def test_no_two_episodes_of_any_evaluations_start_alike_and_peers_meet_the_same_starts():
    class Told(Three):
        def reset(self, *, seed=None, options=None):
            begun.append(seed)
            return super().reset(seed=seed)

    def starts(number, episodes=3):
        begun.clear()
        Evaluator(Told, 3, lambda actions: actions).run(lambda seen: seen, episodes, [7, 7, 8], number)
        first, second, other = (begun[k::3] for k in range(3))
        assert first == second
        return [*first, *other]

    begun = []
    every = [starts(number) for number in (0, 1, 2, 400)]
    assert len({seed for seeds in every for seed in seeds}) == 4 * 6
    assert starts(2, 1) == every[2][::3]  # whatever was evaluated before, and however much
