"""How a caller selects a policy of an agent: one learner, or a group acting as one."""

from __future__ import annotations

from typing import Literal

LearnerChoice = int | Literal["best", "group", "greedy"]
"""A learner's index; "best", by the last evaluation; or the best learner's group, by mean action or its critics."""
Rule = Literal["mean", "greedy", "best"]
"""How a group acts: by the mean of its peers' actions; by the action its critics value most (generalised policy
improvement, Barreto et al. 2017); or as the peer with the highest return in its latest training episodes."""
