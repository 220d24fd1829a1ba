"""What an agent must provide to be exported."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, Protocol

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from policykd.learners import Learner
from policykd.tasks.spaces import ActionScale, ActionSpace, DiscreteActions
from policykd.tasks.views import View

Inputs = Literal["own", "full"]
"""What an exported student reads: its own part of the observation, or the task's full one, from which it selects."""
Which = int | Literal["best"]
"""A learner by its index, or the one with the best last evaluation."""


class Exportable(Protocol):
    """The interface of an agent that exports use."""

    env_id: str
    factory: Callable[[], gym.Env]
    made_by_id: bool
    learner: Learner
    learner_type: type[Learner]
    config: Any
    observation_space: spaces.Box
    action_space: ActionSpace
    action_scale: ActionScale | DiscreteActions
    view: View
    """The learners' view of the task's observations."""
    recipe: Any
    """Counts gradient steps, ``n_updates``."""

    @property
    def method_name(self) -> str:
        """Name of the method."""

    @property
    def backbone(self) -> str:
        """Name of the algorithm."""

    @property
    def num_timesteps(self) -> int:
        """Environment steps of a group so far."""

    @property
    def learners(self) -> list[tuple[int, int]]:
        """Seed and peer index of every learner."""

    def learner_index(self, learner: Any) -> int:
        """Index of a learner."""

    def check_finite(self, command: str, only: int | None = None) -> None:
        """Refuse learners that have diverged."""

    def predict(
        self,
        observation: np.ndarray,
        state: tuple[np.ndarray, ...] | None = None,
        episode_start: np.ndarray | None = None,
        *,
        learner: Any = ...,
    ) -> Any:
        """Actions in units of the environment, and the state for the next call."""

    def actions_at(self, inputs: np.ndarray, k: int) -> np.ndarray:
        """Learner k's actions ``(n, A)``, in units of the environment, at network inputs ``(n, I)``."""
