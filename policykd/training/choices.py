"""Which policy of an agent is meant: one learner, or a group as one."""

from __future__ import annotations

from typing import Literal

LearnerChoice = int | Literal["best", "group", "greedy"]
"""A learner by its index, the one with the best last evaluation, or a group by the mean action or by its critics."""
Rule = Literal["mean", "greedy", "best"]
"""How a group chooses: the mean of its peers' actions; the action that its critics value most (generalised policy
improvement, Barreto et al. 2017); or what the peer does whose latest training episodes returned most."""
