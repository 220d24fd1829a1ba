"""A student as a fast Python function of one observation, for control loops in Python."""

from __future__ import annotations

from collections.abc import Callable
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
        self.observation_size, self.action_size = plain.sizes[0], plain.sizes[-1]
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
        """The action ``(A,)`` at one raw observation ``(O,)``."""
        return self._act(observation)

    def predict(
        self,
        observation: np.ndarray,
        state: Any = None,
        episode_start: np.ndarray | None = None,
        deterministic: bool = True,
    ) -> tuple[np.ndarray, Any]:
        """Actions at one raw observation ``(O,)`` or several ``(n, O)``, by SB3's protocol; always without noise.

        Raises:
            PolicyKDError: they have another size.
        """
        observations = np.asarray(observation)
        if observations.ndim not in (1, 2) or observations.shape[-1] != self.observation_size:
            raise PolicyKDError(
                f"policy: reads {self.observation_size} observations, got an array of shape {observations.shape}"
            )
        if observations.ndim == 1:
            return self._act(observations), state
        return np.stack([self._act(one) for one in observations]), state
