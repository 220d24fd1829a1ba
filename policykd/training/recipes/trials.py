"""Which policy is handed out while an actor learns: one that has proven better than the last, on whole episodes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from torch import Tensor


class Trials:
    """Tries the policies of learners, one frozen copy of each after the other, and keeps those that return more.

    Gradient steps make another policy at every step, and none of these has a return. So a copy acts, unchanged, for a
    number of whole episodes; if their mean return is above that of the policy which is kept by a standard error of the
    difference, it takes its place (cf. Thomas et al. 2015, High Confidence Policy Improvement). Then the actor as it is
    by now is tried. The first trial is of the policy that is there already: it goes on for that many episodes after its
    learner has begun to move, and nothing else is kept before.

    Args:
        actor: parameters ``(K, P)`` of the policies that are there.
        episodes: whole episodes of a trial.
        n_envs: environments N of each learner, whose running episodes were begun by others.
    """

    def __init__(self, actor: Tensor, episodes: int, n_envs: int) -> None:
        self.episodes = episodes
        self.learning, self.tried, self.kept = actor.clone(), actor.clone(), actor.clone()
        """What gradient steps move, what acts, and what is handed out, ``(K, P)`` each."""
        self.best = np.full((len(actor), 2), np.nan)
        """Mean return of the policy that is kept, and this mean's variance, ``(K, 2)``; NaN during its own trial."""
        self.replaced = np.zeros(len(actor), np.int64)
        """How often another one took its place ``(K,)``."""
        self.whole = np.zeros((len(actor), n_envs), bool)
        """Whether the policy that is tried has acted in the running episode from its start, ``(K, N)``."""
        self.returns: list[list[float]] = [[] for _ in range(len(actor))]
        """Returns of the trial's whole episodes, of each learner."""
        self.left = np.full(len(actor), episodes)
        """Whole episodes until the trial ends ``(K,)``."""

    def stepped(self, ended: Mapping[int, float], learning: bool) -> None:
        """Count the episodes that ended, and judge the policies whose trial is over.

        Args:
            ended: their returns, by environment.
            learning: whether the actors learn by now; before, a trial goes on.
        """
        whole = self.whole.ravel()
        for e, returned in ended.items():
            k = e // self.whole.shape[1]
            if whole[e]:
                self.returns[k].append(returned)
                self.left[k] -= learning
        for k in np.flatnonzero(self.left <= 0).tolist():
            self.judge(k)
            self.whole[k] = False
        whole[list(ended)] = True

    def judge(self, k: int) -> None:
        """Keep a learner's policy that was tried if it returned more, and try what the learner is by now."""
        returns, (best, variance) = self.returns[k], self.best[k]
        mean, of_mean = np.mean(returns), np.var(returns, ddof=1) / len(returns) if len(returns) > 1 else 0.0
        first = np.isnan(best)
        if first or mean - best > np.sqrt(variance + of_mean):
            self.best[k] = mean, of_mean
            self.kept[k] = self.tried[k]
            self.replaced[k] += not first
        self.tried[k] = self.learning[k]
        self.returns[k], self.left[k] = [], self.episodes

    def state(self) -> dict[str, Any]:
        """All of it as plain values, arrays and tensors, for a checkpoint."""
        return {**vars(self), "returns": [list(returns) for returns in self.returns]}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a saved state."""
        for name in ("learning", "tried", "kept"):
            getattr(self, name).copy_(state[name])
        for name in ("best", "replaced", "whole", "left"):
            getattr(self, name)[:] = np.asarray(state[name])
        self.returns = [list(returns) for returns in state["returns"]]
