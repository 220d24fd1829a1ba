"""A student as a fast Python function of one observation, for control loops in Python."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal

import numpy as np

from policykd.core.errors import PolicyKDError
from policykd.export.compiled import CompiledPolicy
from policykd.export.deployed import deploy
from policykd.export.exportable import Exportable
from policykd.export.plain import flatten
from policykd.native.build import Unavailable

Computed = Literal["auto", "c", "numpy"]


class Policy:
    """Raw observations to actions in the task's units; its normaliser is inside. One thread at a time.

    Calling it with one observation is the fast way; ``predict`` speaks SB3's protocol. ``load_policy`` of
    ``policykd.training.loading`` makes one of a run folder.

    Args:
        agent: whose learner.
        learner: its index, or "best".
        computed_by: "c" insists on a compiler; "auto" falls back to NumPy, which is slower by a factor of ten or so.

    Raises:
        PolicyKDError: there is no such learner, or it cannot be exported; or no compiler, where one was insisted on.
    """

    computed_by: Literal["c", "numpy"]
    """C, compiled here, or NumPy."""

    def __init__(
        self,
        agent: Exportable,
        learner: int | Literal["best", "group", "greedy"] = "best",
        computed_by: Computed = "auto",
    ) -> None:
        plain = flatten(deploy(agent, agent.learner_index(learner)))
        self._view, self.observation_size, self.action_size = agent.view, agent.view.size, plain.sizes[-1]
        self._reads_all = agent.view.whole and agent.view.history == 1
        self._act: Callable[[np.ndarray], np.ndarray] = plain
        self.computed_by = "numpy"
        if computed_by == "numpy":
            return
        try:
            self._act, self.computed_by = CompiledPolicy(plain), "c"
        except Unavailable as unavailable:
            if computed_by == "c":
                raise PolicyKDError(f"policy: cannot be compiled here ({unavailable}): use computed_by=numpy") from None

    def __call__(self, observation: np.ndarray) -> np.ndarray:
        """The action ``(A,)`` at one raw observation ``(O,)``, of the task or as the student sees it."""
        return self._act(observation if self._reads_all else self._see(observation))

    def predict(
        self,
        observation: np.ndarray | Mapping[str, Any],
        state: Any = None,
        episode_start: np.ndarray | None = None,
        deterministic: bool = True,
    ) -> tuple[np.ndarray, Any]:
        """Actions at one raw observation ``(O,)`` or several ``(n, O)``, by SB3's protocol; always without noise.

        They are the task's, dicts where it gives dicts, or as the student sees them, as in agents' ``predict``.

        Raises:
            PolicyKDError: they have another size.
        """
        seen = self._see(observation)
        actions = np.zeros((*seen.shape[:-1], self.action_size), np.float32)
        for at in np.ndindex(seen.shape[:-1]):
            actions[at] = self._act(seen[at])
        return actions, state

    def _see(self, observation: np.ndarray | Mapping[str, Any]) -> np.ndarray:
        """What the policy reads ``(..., I)`` of observations; of these that it reads already as they are."""
        array = self._view.flat(observation)
        return self._view(array) if array.shape[-1] == self._view.size else array
