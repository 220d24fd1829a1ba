"""Reading an agent back, whichever kind it is."""

from __future__ import annotations

from pathlib import Path

from policykd.core.checkpoint import content_errors
from policykd.export.policy import Computed, Policy
from policykd.tasks.saved import read
from policykd.tasks.spaces import AnyEnv
from policykd.training.agent import Agent
from policykd.training.dual_student import DualStudent
from policykd.training.learner_choice import LearnerChoice
from policykd.training.saving import OwnParts
from policykd.training.teacher_student import TeacherStudent


def load_agent(path: str | Path, env: AnyEnv | None = None, device: str = "auto") -> Agent:
    """The agent in a file that ``save`` wrote, or in a run folder; a student comes without its teacher.

    Raises:
        PolicyKDError: the file is missing, damaged or foreign; nothing of it is run.
    """
    with content_errors(path):
        path, loaded = read(path, env)
        kind = TeacherStudent if "teacher" in loaded["settings"] else DualStudent
        return kind.from_state(path, loaded, env, device, OwnParts())


def load_policy(
    path: str | Path,
    learner: LearnerChoice = "best",
    env: AnyEnv | None = None,
    computed_by: Computed = "auto",
) -> Policy:
    """A learner of a run folder or checkpoint as a fast function of one observation.

    Raises:
        PolicyKDError: as ``load_agent`` and ``Policy``.
    """
    return Policy(load_agent(path, env, device="cpu"), learner, computed_by)
