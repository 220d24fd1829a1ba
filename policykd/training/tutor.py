"""The teacher during training: queried once per state, whatever the recipe does with its answers."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from policykd.core.arrays import Array
from policykd.core.errors import PolicyKDError
from policykd.tasks.batched import BatchedEnvs
from policykd.tasks.partial import PartialEnvs
from policykd.tasks.vector import LearnerEnvs
from policykd.teachers import TeacherScore
from policykd.teachers.panel import Memories, Panel
from policykd.training.collector import Collector


class Tutor(Protocol):
    """Gives labels at the states of training."""

    score: TeacherScore | None
    """Its returns on the task, once measured."""

    def answers(self) -> Tensor:
        """Packed answers ``(K, N, W)`` (``Labels``) at the latest states."""

    def value_at_end(self, info: dict[str, Any], env: int) -> float:
        """Its value of the state that ended an episode in environment ``env``, from the ``info`` of the last step."""


class FrozenTeacher:
    """Frozen teachers that see the whole observation, where students may see a part of it.

    Args:
        panel: the teachers; None where an agent is loaded without them, to act only.
        collector: the environments of training.
        learners: number of students K.
        partial: whether students see only a part of the task's observation.
        device: device of the answers.
    """

    def __init__(
        self, panel: Panel | None, collector: Collector, learners: int, partial: bool, device: torch.device
    ) -> None:
        self.panel, self.collector, self.learners, self.partial = panel, collector, learners, partial
        self.device, self.source = device, "" if panel is None else panel.source
        self.score: TeacherScore | None = None
        self.score_logged = False
        self.before: str | None = None
        """Where the teachers before these came from, empty where there were none; None where these are the first."""
        self._asked_for: Array | None = None
        self._answers = torch.empty(0)
        self._memories: Memories | None = None
        self._before: Memories | None = None
        self._saved: list[Any] | None = None

    def check(self) -> Panel:
        """The teachers; raises if there are none.

        Raises:
            PolicyKDError: the agent was loaded without them.
        """
        if self.panel is None and not self.source:
            raise PolicyKDError("teacher: missing: without one, only learn_from(states) can train these students")
        if self.panel is None:
            raise PolicyKDError(f"teacher: pass the teacher ({self.source}) to continue: load(path, teacher=...)")
        return self.panel

    def answers(self) -> Tensor:
        """Packed answers ``(K, N, W)`` at the latest states, computed once per step."""
        observations = latest = self.collector.observations
        if latest is not self._asked_for:
            if self.partial:
                observations = _whole(self.collector.envs)
            inputs = torch.as_tensor(observations, device=self.device).view(self.learners, self.collector.n_envs, -1)
            starts = torch.from_numpy(self.collector.starts).to(self.device, torch.float32).view(inputs.shape[:-1])
            self._before = self._memories
            envs = torch.arange(self.collector.n_envs)
            self._answers, self._memories = self.check().recall(inputs, self._memories, starts, envs)
            self._asked_for = latest
        return self._answers

    def memories(self) -> list[Any] | None:
        """The state of recurrent teachers before the latest observations, for a checkpoint; None without such."""
        if self.panel is None:
            return self._saved  # of the teachers with which it may go on later
        if not self.panel.remembers:
            return None
        asked = self._asked_for is not None and self._asked_for is self.collector.observations
        return self.panel.keep(self._before if asked else self._memories)

    def restore(self, source: str, score: TeacherScore | None, memories: list[Any] | None) -> None:
        """Go on with the teachers of a checkpoint; others, or these on another task, are scored and remember nothing.

        Args:
            source: where those of the checkpoint came from.
            score: theirs, which the run's log holds already.
            memories: what they remembered.
        """
        if self.panel is None:
            self.source = source
        if self.source == source:
            self.score = score if score is not None and score.env_id == self.collector.env_id else None
            self.score_logged, self._saved = self.score is not None, memories
            self._memories = None if self.panel is None else self.panel.restore(memories)
        else:
            self.before = source

    def forget(self) -> None:
        """Remember no episode: from now on others are asked, and when this one is again, other episodes will run."""
        self._memories = self._before = self._saved = self._asked_for = None

    def value_at_end(self, info: dict[str, Any], env: int) -> float:
        """The teacher's value of the state that ended an episode in environment ``env`` of all E."""
        observation = np.asarray(info.get("full_observation", info["terminal_observation"]), np.float32)
        where, rows = torch.tensor([env % self.collector.n_envs]), torch.from_numpy(observation).view(1, 1, -1)
        said, _ = self.check().recall(rows, None, torch.ones(1, 1), where)  # values are of single states
        return float(said[..., -1])


def _whole(envs: LearnerEnvs | BatchedEnvs) -> Array:
    """The latest observations ``(E, O)``, of which students see a part."""
    if isinstance(envs, PartialEnvs):
        return envs.full_observation
    assert isinstance(envs, LearnerEnvs)
    return np.stack([env.get_wrapper_attr("full_observation") for env in envs.envs]).astype(np.float32)
