"""Gymnasium tasks of PolicyKD: a toy task and harder variants of the MuJoCo v5 tasks.

Importing the package registers every id ``PolicyKD/Name-v0`` (see ``README.md`` beside this file), so both
``gym.make("policykd_envs:PolicyKD/PointReach-v0")`` and an import followed by a plain id work.
"""

from policykd_envs.making import make, quiet
from policykd_envs.point_reach import PointReach
from policykd_envs.registration import TASKS, register_tasks
from policykd_envs.wrappers import DelayedReward, MaskVelocity, ShiftedDynamics

__all__ = ["TASKS", "DelayedReward", "MaskVelocity", "PointReach", "ShiftedDynamics", "make", "quiet"]

register_tasks()
