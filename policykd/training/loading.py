"""Reading an agent back, whichever kind it is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium as gym

from policykd.export.deployed import deploy
from policykd.export.plain import flatten
from policykd.export.policy import Computed, Policy
from policykd.tasks.spaces import EnvFactory
from policykd.training.agent import Agent, LearnerChoice, read
from policykd.training.dual_student import DualStudent
from policykd.training.teacher_student import TeacherStudent


def load_agent(path: str | Path, env: str | gym.Env | EnvFactory | None = None, device: str = "auto") -> Agent:
    """The agent in a file that ``save`` wrote, or in a run folder; a student comes without its teacher.

    Raises:
        PolicyKDError: the file is missing, damaged or foreign; nothing of it is run.
    """
    path, loaded = read(path, env)
    kind = TeacherStudent if "teacher" in loaded["settings"] else DualStudent
    return kind.from_state(path, loaded, env, device)


def load_policy(
    source: str | Path | Agent, learner: LearnerChoice = "best", env: Any = None, computed_by: Computed = "auto"
) -> Policy:
    """A learner of a run folder, a checkpoint or a live agent, as it is now.

    Args:
        source: a run folder, a file that ``save`` wrote, or an agent.
        learner: its index, or "best".
        env: the task, where it is not registered.
        computed_by: "c" insists on a compiler; "auto" falls back to NumPy, which is slower by a factor of ten or so.

    Raises:
        PolicyKDError: it cannot be read, or there is no such learner.
    """
    agent = load_agent(source, env, device="cpu") if isinstance(source, str | Path) else source
    return Policy(flatten(deploy(agent, agent.learner_index(learner))), computed_by)
