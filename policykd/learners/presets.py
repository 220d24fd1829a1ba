"""Settings by task, as data. ``config="zoo"`` on the command line or in Python picks the task's row."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from policykd.core.errors import PolicyKDError, nearest
from policykd.core.fields import change
from policykd.learners.config import Config

C = TypeVar("C", bound=Config)

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

NORMALIZED: Changes = {"normalize_observation": True, "normalize_reward": True}
"""The zoo's ``normalize: true``."""

WIDE: Changes = {"net_arch": (256, 256), "activation_fn": "relu", "ortho_init": False, "log_std_init": -2.0}
"""The networks of the zoo's tuned PPO settings for MuJoCo."""


def _ppo(*values: float) -> Changes:
    """One line of the zoo's table, in the order in which its file has them."""
    names = (
        *("batch_size", "n_steps", "gamma", "learning_rate", "ent_coef"),
        *("clip_range", "n_epochs", "gae_lambda", "max_grad_norm", "vf_coef"),
    )
    return {**NORMALIZED, **dict(zip(names, values, strict=True))}


ZOO_PPO: dict[str, Changes] = {
    "default": NORMALIZED,
    "HalfCheetah-v5": {**_ppo(64, 512, 0.98, 2.0633e-05, 0.000401762, 0.1, 20, 0.92, 0.8, 0.58096), **WIDE},
    "Hopper-v5": {**_ppo(32, 512, 0.999, 9.80828e-05, 0.00229519, 0.2, 5, 0.99, 0.7, 0.835671), **WIDE},
    "Humanoid-v5": {**_ppo(256, 512, 0.95, 3.56987e-05, 0.00238306, 0.3, 5, 0.9, 2.0, 0.431892), **WIDE},
    "HumanoidStandup-v5": {**_ppo(32, 512, 0.99, 2.55673e-05, 3.62109e-06, 0.3, 20, 0.9, 0.7, 0.430793), **WIDE},
    "InvertedDoublePendulum-v5": _ppo(512, 128, 0.98, 0.000155454, 1.05057e-06, 0.4, 10, 0.8, 0.5, 0.695929),
    "InvertedPendulum-v5": _ppo(64, 32, 0.999, 0.000222425, 1.37976e-07, 0.4, 5, 0.9, 0.3, 0.19816),
    "Reacher-v5": _ppo(32, 512, 0.9, 0.000104019, 7.52585e-08, 0.3, 5, 1.0, 0.9, 0.950368),
    "Swimmer-v5": {**NORMALIZED, "gamma": 0.9999},
    "Walker2d-v5": {**_ppo(32, 512, 0.99, 5.05041e-05, 0.000585045, 0.1, 20, 0.95, 1.0, 0.871923), **WIDE},
    "CartPole-v1": {
        **{"n_envs": 8, "n_steps": 32, "batch_size": 256, "gae_lambda": 0.8, "gamma": 0.98, "n_epochs": 20},
        **{"learning_rate": 1e-3, "learning_rate_schedule": "linear", "clip_range_schedule": "linear"},
    },
    "Acrobot-v1": {**NORMALIZED, "n_envs": 16, "n_steps": 256, "gae_lambda": 0.94, "n_epochs": 4},
    "LunarLander-v3": {
        **{"n_envs": 16, "n_steps": 1024, "gae_lambda": 0.98, "gamma": 0.999, "n_epochs": 4, "ent_coef": 0.01}
    },
    # The zoo also has state-dependent exploration (gSDE) here, which policykd has not.
    "Pendulum-v1": {"n_envs": 4, "n_steps": 1024, "gamma": 0.9, "learning_rate": 1e-3},
}
"""rl-baselines3-zoo's PPO settings by task (its rows of the MuJoCo tasks are for v3; Ant has the defaults)."""

QUICK_PPO: Changes = {**NORMALIZED, "n_steps": 512, "gamma": 0.98}
"""Short rollouts: what a first look uses."""

PPO_PRESETS: dict[str, dict[str, Changes]] = {
    "zoo": ZOO_PPO,
    "quick": {
        "default": QUICK_PPO,
        "PolicyKD/PointReach-v0": {**QUICK_PPO, "n_steps": 256, "eval_freq": 2_000, "log_freq": 500},
        "InvertedPendulum-v5": {**QUICK_PPO, "n_steps": 256, "eval_freq": 2_000, "log_freq": 1_000},
    },
    "dpd_paper": {
        # Lai et al. 2020, section 4.1; the paper's value network has a third hidden layer of 64.
        "default": {
            **NORMALIZED,
            "distill_batch_size": 256,
            "distill_learning_rate": 1e-5,
            "distill_recent": 1000,
            "scale_free": False,
        },
    },
    "dpd_published_code": {
        # The released DPD-PPO code: one distillation step per 5 updates, with PPO's own Adam.
        "default": {
            **NORMALIZED,
            "learning_rate": 5e-5,
            "batch_size": 32,
            "distill_batch_size": 512,
            "distill_learning_rate": 5e-5,
            "distill_recent": None,
            "distill_optimizer": "shared",
            "distill_freq": 5,
            "distill_gradient_steps": 1,
            "alpha": 0.5,
        },
    },
}
"""Presets of PPO; those of the backbones with a replay are ``PRESETS``."""

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
        # Faster targets: with 0.005 few learners balance the pole within 20,000 steps.
        "InvertedPendulum-v5": {**QUICK, "tau": 0.05, "learning_rate": 3e-3, "eval_freq": 2_000, "log_freq": 1_000},
    },
    # As in experiments/peers: one replay of all peers, of which distillation sees all.
    "peers": {"default": {**QUICK, "distill_learning_rate": 3e-4, "distill_recent": None}},
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
    presets = PPO_PRESETS if backbone == "ppo" else PRESETS
    if name not in presets:
        raise PolicyKDError(f"config: there is no preset {name!r}{nearest(name, presets)}; there are {list(presets)}")
    rows = ZOO_SAC if (name, backbone) == ("zoo", "sac") else presets[name]
    return rows.get(env_id, rows["default"])


TEACHING_PRESETS: dict[str, Changes] = {
    "quick": {"round_steps": 500, "round_updates": 250, "eval_freq": 5_000, "log_freq": 1_000, "n_eval_episodes": 5},
}
"""Presets of a teacher's students, whatever the task."""


def teaching_preset(name: str) -> Changes:
    """The fields that preset ``name`` of a teacher's students changes.

    Raises:
        PolicyKDError: there is no such preset.
    """
    if name not in TEACHING_PRESETS:
        known = TEACHING_PRESETS
        raise PolicyKDError(f"config: there is no preset {name!r}{nearest(name, known)}; there are {list(known)}")
    return TEACHING_PRESETS[name]


def resolve_config(
    config: str | dict[str, Any] | C | None, kind: type[C], backbone: str, presets: Callable[[str], dict[str, Any]]
) -> C:
    """The whole configuration of type ``kind`` from a preset's name, changed fields or itself."""
    if config is None:
        return kind()
    if isinstance(config, str):
        return change(kind(), presets(config))
    if isinstance(config, dict):
        return change(kind(), config)
    if type(config) is not kind:
        raise PolicyKDError(f"config: {backbone} takes a {kind.__name__}, not a {type(config).__name__}")
    return config
