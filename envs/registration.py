"""The tasks of this package: one table that fills Gymnasium's registry and the README."""

from dataclasses import dataclass, field
from typing import Any

import gymnasium as gym
from gymnasium.envs.registration import WrapperSpec
from gymnasium.spaces.utils import flatdim
from policykd_envs.making import make
from policykd_envs.point_reach import PointReach

LOCOMOTION = ("HalfCheetah", "Hopper", "Walker2d", "Ant", "Swimmer")
WALKERS = ("HalfCheetah", "Hopper", "Walker2d", "Ant")  # Swimmer moves in a fluid, without gravity or contact
HAVE_VELOCITIES = (*LOCOMOTION, "Humanoid", "InvertedPendulum", "InvertedDoublePendulum")


@dataclass(frozen=True)
class Variant:
    """A modification that makes new tasks from MuJoCo v5 tasks."""

    suffix: str
    """Suffix of the task's name: ``Hopper`` + ``Delayed``."""
    bases: tuple[str, ...]
    """Names of the tasks, without ``-v5``."""
    wrapper: str
    """Name of the class in ``policykd_envs.wrappers``."""
    why: str
    """Purpose of the variant, in one line."""
    kwargs: dict[str, Any] = field(default_factory=dict)
    """Arguments of the wrapper."""


VARIANTS = (
    Variant("NoVelocity", HAVE_VELOCITIES, "MaskVelocity", "partial observation: velocities read zero"),
    Variant("Delayed", LOCOMOTION, "DelayedReward", "rewards summed, paid every 20 steps (P3S)", {"n": 20}),
    Variant("HeavyTorso", LOCOMOTION, "ShiftedDynamics", "torso mass x 1.5", {"torso_mass": 1.5}),
    Variant("LowGravity", WALKERS, "ShiftedDynamics", "gravity x 0.5", {"gravity": 0.5}),
    Variant("LowFriction", WALKERS, "ShiftedDynamics", "friction x 0.5", {"friction": 0.5}),
    Variant("WeakActuators", LOCOMOTION, "ShiftedDynamics", "motors x 0.7", {"actuator_strength": 0.7}),
)

TASKS = {
    "PolicyKD/PointReach-v0": "solved within seconds: tests and first tries",
    "PolicyKD/PointReachSparse-v0": "exploration: -1 until within 0.1 of the goal",
} | {f"PolicyKD/{base}{variant.suffix}-v0": variant.why for variant in VARIANTS for base in variant.bases}
"""Every id of this package, with its purpose."""


def register_tasks() -> None:
    """Register every task with Gymnasium."""
    gym.register(
        id="PolicyKD/PointReach-v0",
        entry_point="policykd_envs.point_reach:PointReach",
        max_episode_steps=PointReach.HORIZON,
        reward_threshold=PointReach.REWARD_THRESHOLD,
    )
    gym.register(
        id="PolicyKD/PointReachSparse-v0",
        entry_point="policykd_envs.point_reach:PointReach",
        max_episode_steps=PointReach.HORIZON,
        kwargs={"sparse": True},
    )
    for variant in VARIANTS:
        for base in variant.bases:
            _register_variant(variant, base)


def _register_variant(variant: Variant, base: str) -> None:
    spec = gym.spec(f"{base}-v5")
    entry_point = f"policykd_envs.wrappers:{variant.wrapper}"
    gym.register(
        id=f"PolicyKD/{base}{variant.suffix}-v0",
        entry_point=spec.entry_point,
        max_episode_steps=spec.max_episode_steps,
        kwargs=spec.kwargs,
        # Gymnasium applies these outside TimeLimit, so that DelayedReward sees truncation.
        additional_wrappers=(WrapperSpec(variant.wrapper, entry_point, variant.kwargs),),
    )


def readme_table() -> str:
    """Return the table of tasks in ``README.md``, in Markdown."""
    lines = ["| id | observation | action | horizon | why |", "|---|---|---|---|---|"]
    for env_id, why in TASKS.items():
        env = make(env_id)
        observation, action = flatdim(env.observation_space), flatdim(env.action_space)
        horizon = gym.spec(env_id).max_episode_steps
        lines.append(f"| `{env_id}` | {observation} | {action} | {horizon} | {why} |")
        env.close()
    return "\n".join(lines) + "\n"
