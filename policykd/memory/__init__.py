"""Memory of learners: replays, rollouts, labelled states, logged data and knowledge bases."""

from policykd.memory.knowledge_base import KnowledgeBase, Neighbours
from policykd.memory.labelled import LabelledStates
from policykd.memory.logged import LoggedStates
from policykd.memory.nearest import NearestStates
from policykd.memory.replay import Batch, SharedReplay
from policykd.memory.rollout import Rollout

__all__ = [
    "Batch",
    "KnowledgeBase",
    "LabelledStates",
    "LoggedStates",
    "NearestStates",
    "Neighbours",
    "Rollout",
    "SharedReplay",
]
