"""A student as a fast Python function of one observation, for control loops in Python."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np

from policykd.core.arrays import where_episodes_start
from policykd.core.errors import PolicyKDError
from policykd.export.compiled import CompiledPolicy
from policykd.export.deployed import deploy
from policykd.export.exportable import Exportable
from policykd.export.plain import PlainPolicy, flatten
from policykd.export.stateful import Episodes, needs_state, over_episodes
from policykd.native.build import Unavailable

Computed = Literal["auto", "c", "numpy"]


class Policy:
    """Raw observations to actions in the task's units; its normaliser is inside. One thread at a time.

    Calling it with one observation is fastest; ``predict`` has the signature of SB3's. ``load_policy`` of
    ``policykd.training.loading`` loads one from a run folder.

    Args:
        agent: the agent.
        learner: index of the learner, or "best".
        computed_by: "c" requires a compiler; "auto" falls back to NumPy, which is slower by a factor of ten or so.

    Raises:
        PolicyKDError: there is no such learner, it cannot be exported, or "c" finds no compiler.
    """

    computed_by: Literal["c", "numpy"]
    """Compiled C, or NumPy."""

    def __init__(
        self,
        agent: Exportable,
        learner: int | Literal["best", "group", "greedy"] = "best",
        computed_by: Computed = "auto",
    ) -> None:
        k, self._view = agent.learner_index(learner), agent.view
        episodes = Episodes(agent, k, "own") if needs_state(agent, "full") else None
        self._plain = flatten(deploy(agent, k)) if episodes is None else episodes.plain()
        self.observation_size, self.action_size = agent.view.size, self._plain.sizes[-1]
        self._act, self.computed_by = computed(self._plain, computed_by)
        self._shape = (self.observation_size,)
        self._as_it_is = agent.view.is_full and agent.view.space is None and episodes is None
        if episodes is not None:
            episodes.check(over_episodes(self._act.step), "the fast policy")

    def __call__(self, observation: np.ndarray) -> np.ndarray:
        """The action ``(A,)`` at one raw observation ``(O,)``, either the task's or the student's part of it.

        Raises:
            PolicyKDError: it has another size, or the policy has memory.
        """
        if self._as_it_is and getattr(observation, "shape", None) == self._shape:
            return self._act(observation)
        array = self._view.flat(observation)
        if self._plain.width or (self._plain.state_size and array.shape[-1] == self._view.size):
            raise PolicyKDError("policy: has memory: use predict(observation, state, episode_start)")
        return self.predict(array)[0]

    def predict(
        self,
        observation: np.ndarray | Mapping[str, Any],
        state: Any = None,
        episode_start: np.ndarray | None = None,
        deterministic: bool = True,
    ) -> tuple[np.ndarray, Any]:
        """Actions at one raw observation ``(O,)`` or several ``(n, O)``; as SB3's ``predict``, always deterministic.

        Observations are the task's, such as dicts, or the student's part of them, as in agents' ``predict``. For a
        policy with memory, pass the returned state to the next call, None at first. Otherwise it is passed through.

        Raises:
            PolicyKDError: observations or state have another size, or starts another number.
        """
        array = self._view.flat(observation)
        rows = array.reshape(-1, array.shape[-1])
        actions = np.zeros((len(rows), self.action_size), np.float32)
        if self._plain.state_size:
            state = (self._recall(rows, state, episode_start, actions),)
        else:
            for row, action in zip(self._pick(rows), actions, strict=True):
                action[:] = self._act(row)
        return actions.reshape(*array.shape[:-1], self.action_size), state

    def _pick(self, rows: np.ndarray) -> np.ndarray:
        """The student's part ``(n, P)`` of the task's observations ``(n, O)``; such parts pass unchanged."""
        return self._view(rows) if rows.shape[1] == self._view.size else rows

    def _recall(
        self, rows: np.ndarray, state: tuple[np.ndarray, ...] | None, starts: np.ndarray | None, actions: np.ndarray
    ) -> np.ndarray:
        """Write actions at observations of n episodes into ``actions (n, A)``; returns the next state ``(n, S)``."""
        shape = len(rows), self._plain.state_size
        after = np.zeros(shape, np.float32) if state is None else state[0].copy()
        if after.shape != shape:
            raise PolicyKDError(f"predict: the state has shape {after.shape}, and {shape} is needed")
        begun = np.full(len(rows), state is None)
        if state is not None:
            begun[:] = where_episodes_start(starts, len(rows))
        parts = self._pick(rows)
        if parts.shape[1] != self._plain.part_size:  # histories, stacked by the caller
            after[begun], begun = 0, np.zeros_like(begun)
            parts, after = self._plain.placed(parts, after)
        for i, part in enumerate(parts):
            actions[i], after[i] = self._act.step(part, begun[i], after[i])
        return after


def computed(policy: PlainPolicy, by: Computed) -> tuple[PlainPolicy | CompiledPolicy, Literal["c", "numpy"]]:
    """The policy compiled or in NumPy as ``by`` requests, and which of them it is.

    Raises:
        PolicyKDError: ``by`` is "c", and it cannot be compiled here.
    """
    if by == "numpy":
        return policy, "numpy"
    try:
        return CompiledPolicy(policy), "c"
    except Unavailable as unavailable:
        if by == "c":
            raise PolicyKDError(f"policy: cannot be compiled here ({unavailable}): use computed_by=numpy") from None
        return policy, "numpy"
