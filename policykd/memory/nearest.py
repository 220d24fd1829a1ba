"""A policy that is its data: the mean action at the states that are nearest (k-nearest-neighbour regression)."""

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
    """Acts as was done at the k most similar states, in the units of these actions (Cover & Hart 1967, Stone 1977).

    Similar is a small Euclidean distance of observations, each column that varies in units of its own standard
    deviation. SB3's ``evaluate_policy`` plays it.

    Args:
        observations: states ``(n, O)``.
        actions: continuous actions there ``(n, A)``.
        k: neighbours, each of which counts alike.

    Raises:
        PolicyKDError: there are not k states, not one action for each, or a number is not finite.
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
        """The policy of whatever holds states with actions.

        Args:
            source: whatever ``LoggedStates.read`` takes.
            k: neighbours.
            action_space: the task's, into whose units actions are brought that are kept in [-1, 1] (those of SB3's
                replay buffers and of ``Demonstrations``); others are in them already.

        Raises:
            PolicyKDError: it cannot be read, or holds no continuous actions, or of another task.
        """
        logged = LoggedStates.read(source)
        actions = None if logged.actions is None else np.asarray(logged.actions)
        if actions is None or actions.ndim != 2 or actions.dtype.kind != "f":
            raise PolicyKDError(f"nearest states: {logged.source} has no continuous actions (n, A) to take the mean of")
        if logged.scaled:
            if not isinstance(action_space, spaces.Box):
                raise PolicyKDError(
                    f"nearest states: {logged.source} keeps actions in [-1, 1], or choices, which are refused: give "
                    "action_space=, the task's Box"
                )
            scale = ActionScale(action_space)
            actions = scale.to_env(logged.as_learners_hold(scale))
        return cls(torch.from_numpy(logged.observations), torch.from_numpy(actions.astype(np.float32)), k)

    def __call__(self, observations: Tensor, exclude: Tensor | None = None) -> Tensor:
        """Mean actions ``(B, A)`` of the neighbours of observations ``(B, O)``.

        Args:
            observations: raw.
            exclude: the row ``(B,)`` that each shall not find: itself, where it is in the memory.

        Raises:
            PolicyKDError: another width, an observation that is not finite, or fewer than k states to find.
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
        """Actions ``(A,)`` at one observation ``(O,)``, or ``(n, A)`` at several ``(n, O)``, by SB3's protocol.

        Args:
            observation: raw.
            state: is not used.
            episode_start: is not used.
            deterministic: is not used; it always is.

        Raises:
            PolicyKDError: a dict of observations, or as in ``__call__``.
        """
        if isinstance(observation, Mapping):
            raise PolicyKDError("nearest states: reads vectors (O,), not dicts: play FlattenObservation(env)")
        rows = torch.as_tensor(np.asarray(observation, np.float32))
        actions = self(rows.reshape(-1, rows.shape[-1])).cpu().numpy()
        return actions.reshape(*rows.shape[:-1], actions.shape[1]), None
