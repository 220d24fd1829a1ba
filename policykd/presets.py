"""Settings by task, as data. ``config="zoo"`` on the command line or in Python picks the task's row."""

from __future__ import annotations

from typing import Any

from policykd.errors import PolicyKDError, nearest

Changes = dict[str, Any]

ZOO_MUJOCO: Changes = {
    "learning_starts": 10_000,
    "learning_rate": 1e-3,
    "batch_size": 256,
    "net_arch": (400, 300),
}
"""rl-baselines3-zoo's TD3 and DDPG settings for the MuJoCo tasks."""

QUICK: Changes = {"learning_starts": 500, "batch_size": 64, "net_arch": (64, 64), "buffer_size": 100_000}
"""Small networks and an early start: what the demo and a first look use."""

ZOO_SAC: dict[str, Changes] = {
    "default": {"learning_starts": 10_000},
    "Swimmer-v5": {"learning_starts": 10_000, "gamma": 0.9999},
    "Pendulum-v1": {"learning_rate": 1e-3},
}
"""rl-baselines3-zoo's SAC settings by task: SB3's defaults, but for these."""

PRESETS: dict[str, dict[str, Changes]] = {
    "zoo": {
        "default": ZOO_MUJOCO,
        "Swimmer-v5": {**ZOO_MUJOCO, "gamma": 0.9999},
        "Pendulum-v1": {
            "learning_starts": 10_000,
            "buffer_size": 200_000,
            "gamma": 0.98,
            "gradient_steps": 1,
        },
    },
    "quick": {
        "default": QUICK,
        "PolicyKD/PointReach-v0": {**QUICK, "learning_starts": 200, "eval_freq": 2_000, "log_freq": 500},
        "InvertedPendulum-v5": {**QUICK, "eval_freq": 2_000, "log_freq": 1_000},
    },
    "dpd_paper": {
        # Lai et al. 2020, section 4.1; alpha is chosen per task from [0.1, 10] there.
        "default": {
            "net_arch": (64, 64, 64),
            "batch_size": 64,
            "distill_batch_size": 64,
            "distill_learning_rate": 1e-4,
            "distill_recent": 1000,
            "scale_free": False,
        },
    },
}


def preset(name: str, env_id: str, backbone: str) -> Changes:
    """The fields that preset ``name`` changes for a task, its default row where the task has none.

    Raises:
        PolicyKDError: there is no such preset.
    """
    if name not in PRESETS:
        raise PolicyKDError(f"config: there is no preset {name!r}{nearest(name, PRESETS)}; there are {list(PRESETS)}")
    rows = ZOO_SAC if (name, backbone) == ("zoo", "sac") else PRESETS[name]
    return rows.get(env_id, rows["default"])
