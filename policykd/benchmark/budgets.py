"""Converts a benchmark's budgets per group to settings of its learners, which count their own steps."""

from __future__ import annotations

from typing import Any

from policykd.core.errors import PolicyKDError
from policykd.core.fields import change, require
from policykd.learners import LEARNERS
from policykd.learners.config import Config, PPOConfig

Updates = int | tuple[int, ...] | None
"""Gradient steps per environment step of a group, for all learners or for each; None leaves it to the settings."""


def group_budgets(
    given: dict[str, Any], random_steps: int | None, utd: Updates, peers: int, backbone: str
) -> dict[str, Any]:
    """Settings per learner with which a group keeps its budgets.

    Args:
        given: the other settings.
        random_steps: random environment steps of the group, over all of its learners.
        utd: gradient steps per environment step of the group.
        peers: number of learners in the group.
        backbone: their algorithm; PPO has neither budget.

    Raises:
        PolicyKDError: a budget does not fit the backbone, the number of peers or a given setting.
    """
    if backbone == "ppo" and (random_steps, utd) != (None, None):
        raise PolicyKDError("config: random_steps and utd need a backbone with a replay: leave them out for ppo")
    vary: dict[str, Any] = given.get("vary", {})
    budgets: dict[str, Any] = {}
    if random_steps is not None:
        require(random_steps % peers == 0, "random_steps", random_steps, f"must be a multiple of {peers} peers")
        budgets["learning_starts"] = random_steps // peers
    if utd is not None:
        require("gradient_steps" not in vary, "utd", utd, "applies to the whole group: leave vary.gradient_steps out")
        pace = {name: given[name] for name in ("train_freq", "n_envs") if name in given} | {"gradient_steps": -1}
        steps = peers * change(LEARNERS[backbone].config_type(), pace).updates_at_once
        budgets["gradient_steps"] = utd * steps if isinstance(utd, int) else max(utd) * steps
    for name in budgets:
        require(name not in given, name, given.get(name), "follows from random_steps and utd: leave it out")
    if isinstance(utd, tuple):
        require(len(utd) == peers, "utd", list(utd), f"must be one number, or one for each of {peers} peers")
        budgets["vary"] = {**vary, "gradient_steps": [own * steps for own in utd]}
    return budgets


def steps_at_once(config: Config, peers: int) -> tuple[int, int]:
    """Environment steps of a group of which evaluation intervals and the total must be multiples."""
    at_once = peers * config.n_envs
    return at_once, at_once * config.n_steps if isinstance(config, PPOConfig) else at_once
