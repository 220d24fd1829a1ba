"""A nonparametric policy: k-nearest-neighbour regression on logged states and actions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from policykd.core.errors import PolicyKDError
from policykd.memory.knowledge_base import KnowledgeBase
from policykd.memory.logged import LoggedStates
from policykd.tasks.spaces import ActionScale


class NearestStates:
    """Returns the mean action of the k nearest states, in these actions' units (Cover & Hart 1967, Stone 1977).

    Nearness is the Euclidean distance of observations, with each varying column divided by its standard deviation.
    It works with SB3's ``evaluate_policy``.

    Args:
        observations: states ``(n, O)``.
        actions: continuous actions ``(n, A)`` at these states.
        k: number of neighbours, all with equal weight.

    Raises:
        PolicyKDError: there are fewer than k states, not one action per state, or values that are not finite.
    """

    def __init__(self, observations: Tensor, actions: Tensor, k: int = 8) -> None:
        if observations.ndim != 2 or actions.ndim != 2 or not 1 <= k <= len(observations):
            raise PolicyKDError(
                f"nearest states: needs at least k={k} >= 1 states (n, O) and actions (n, A), got "
                f"{tuple(observations.shape)} and {tuple(actions.shape)}"
            )
        self.k, self.mean, std = k, observations.mean(0), observations.std(0, correction=0)
        self.std = std.where(std > 0, torch.ones_like(std))
        size = observations.shape[1], actions.shape[1]
        self.memory = KnowledgeBase(*size, "", metric="euclidean", probabilities=False, device=observations.device)
        self.memory.add((observations - self.mean) / self.std, actions)

    @classmethod
    def of(cls, source: Any, k: int = 8, action_space: spaces.Box | None = None) -> NearestStates:
        """Make the policy from any source of states with actions.

        Args:
            source: anything that ``LoggedStates.read`` takes.
            k: number of neighbours.
            action_space: the task's action space, used to convert actions in [-1, 1] (as in SB3's replay buffers and in
                ``Demonstrations``) to the task's units; other actions already are.

        Raises:
            PolicyKDError: it cannot be read, has no continuous actions, or belongs to another task.
        """
        logged = LoggedStates.read(source)
        actions = None if logged.actions is None else np.asarray(logged.actions)
        if actions is None or actions.ndim != 2 or actions.dtype.kind != "f":
            raise PolicyKDError(f"nearest states: {logged.source} has no continuous actions (n, A) to average")
        if logged.scaled:
            if not isinstance(action_space, spaces.Box):
                raise PolicyKDError(
                    f"nearest states: {logged.source} has actions in [-1, 1], or discrete ones: give "
                    "action_space=, the task's Box"
                )
            scale = ActionScale(action_space)
            actions = scale.to_env(logged.as_learner_actions(scale))
        return cls(torch.from_numpy(logged.observations), torch.from_numpy(actions.astype(np.float32)), k)

    def __call__(self, observations: Tensor, exclude: Tensor | None = None) -> Tensor:
        """Mean actions ``(B, A)`` of the nearest neighbours.

        Args:
            observations: raw observations ``(B, O)``.
            exclude: one row ``(B,)`` per observation to skip, such as its own if it is in the memory.

        Raises:
            PolicyKDError: the width differs, an observation is not finite, or fewer than k states remain.
        """
        if observations.ndim != 2 or observations.shape[1] != len(self.mean):
            raise PolicyKDError(
                f"nearest states: reads observations (B, {len(self.mean)}), got {tuple(observations.shape)}"
            )
        queries = (observations.to(self.mean) - self.mean) / self.std
        return self.memory.values[self.memory.search(queries, self.k, exclude).rows].mean(1)

    def predict(
        self,
        observation: np.ndarray,
        state: Any = None,
        episode_start: np.ndarray | None = None,
        deterministic: bool = True,
    ) -> tuple[np.ndarray, None]:
        """Actions ``(A,)`` for an observation ``(O,)``, or ``(n, A)`` for ``(n, O)``, as SB3's ``predict``.

        Args:
            observation: raw observation or observations.
            state: unused.
            episode_start: unused.
            deterministic: unused; the policy is always deterministic.

        Raises:
            PolicyKDError: a dict of observations, or as in ``__call__``.
        """
        if isinstance(observation, Mapping):
            raise PolicyKDError("nearest states: takes vectors (O,), not dicts: use FlattenObservation(env)")
        rows = torch.as_tensor(np.asarray(observation, np.float32))
        actions = self(rows.reshape(-1, rows.shape[-1])).cpu().numpy()
        return actions.reshape(*rows.shape[:-1], actions.shape[1]), None
