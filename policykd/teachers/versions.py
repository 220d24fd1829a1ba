"""Makes observations of older versions of MuJoCo's tasks from those of version 5 (Gymnasium's release notes of 1.0).

Version 5 left out columns that are always 0: contact forces and inertia of the world's body, forces on the root joint.
With mujoco-py 2.0 and later, and so in all agents of rl-baselines3-zoo, versions 2 and 3 had 0 for every contact force.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from policykd.core.errors import PolicyKDError

_HUMANOID = (45, -10, 130, -6, 78, -6, 17, -6, 78)
LAYOUTS: dict[str, tuple[int, ...]] = {
    "Ant": (27, -6, 78),
    "Humanoid": _HUMANOID,
    "HumanoidStandup": _HUMANOID,
    "Reacher": (10, -1),
    "InvertedDoublePendulum": (9, -2),
}
"""How to make the old observation from version 5's: number of columns to copy, or (negative) of zeros to insert."""
CONTACT_FORCES = {"Ant": 78, "Humanoid": 78, "HumanoidStandup": 78}
"""Number of last columns that are contact forces."""
NAMES = ("v2", "v3", "v4")


def older(version: str, task: str, size: int) -> Callable[[Tensor], Tensor]:
    """A function from observations ``(B, O)`` of version 5, or of the older version itself, to an older version's.

    Args:
        version: "v4" as in Gymnasium; "v2" and "v3" with contact forces of 0, as in mujoco-py 2.
        task: the task's name without version, such as "Ant".
        size: length O of the task's observations.

    Raises:
        PolicyKDError: the task has no such version, or its observations are of neither version.
    """
    if version not in NAMES or task not in LAYOUTS:
        known = f"{', '.join(NAMES)} of {', '.join(LAYOUTS)}"
        raise PolicyKDError(
            f"observation_map: {version!r} of {task} is unknown: give one of {known}, columns or a function"
        )
    forces = CONTACT_FORCES.get(task, 0) if version != "v4" else 0
    old, new = sizes(task)
    if size not in (old, new):
        raise PolicyKDError(
            f"observation_map: {version!r} makes {old} observations of {task}-v5's {new}, and the task has {size}: "
            f"make {task}-v5, or give columns or a function"
        )

    def look(observations: Tensor) -> Tensor:
        if forces:
            observations = torch.cat((observations[:, :-forces], torch.zeros_like(observations[:, -forces:])), 1)
        if size == old:
            return observations
        parts, start = [], 0
        for count in LAYOUTS[task]:
            if count < 0:
                parts.append(observations.new_zeros(len(observations), -count))
            else:
                parts.append(observations[:, start : start + count])
                start += count
        return torch.cat(parts, 1)

    return look


def sizes(task: str) -> tuple[int, int]:
    """Length of the observations in older versions of a task, and in version 5."""
    layout = LAYOUTS.get(task, ())
    return sum(map(abs, layout)), sum(count for count in layout if count > 0)


def advice(task: str, needed: tuple[int, int]) -> str | None:
    """The ``observation_map`` that makes a teacher's ``needed[0]`` numbers from the task's ``needed[1]``."""
    if needed == (27, 105) and task == "Ant":
        return "give observation_map=range(27)"
    if needed == (111, 27) and task == "Ant":
        return 'make Ant-v5 and give observation_map="v3"'
    if needed != sizes(task):
        return None
    if task not in CONTACT_FORCES:
        return 'give observation_map="v4"'
    return 'give observation_map="v3" (contact forces of 0, as mujoco-py 2 and the zoo had them) or "v4" (with them)'
