"""Do students that see no velocities act as their teacher if they remember? What is compared, declared beforehand."""

from __future__ import annotations

from typing import Any

TEACHERS = {
    "HalfCheetah-v5": "SAC HalfCheetah",
    "Hopper-v5": "TQC Hopper",
    "Walker2d-v5": "PPO Walker2d",
}
"""Agents of experiments/teacher_student/retention.py, which see the whole observation: two of rl-baselines3-zoo, one
that is trained here."""
STUDENTS: dict[str, dict[str, Any]] = {
    "feed-forward": {},
    "history of 4": {"history": 4},
    "history of 8": {"history": 8},
    "gru of 64": {"gru": 64},
    "feed-forward, all observations": {"student_observations": None},
}
"""What each student has beside the common settings; the last one sees the velocities, as the upper end."""
SETTINGS: dict[str, Any] = {
    **{"student_observations": "qpos", "net_arch": (64, 64)},
    **{"eval_freq": 0, "n_eval_episodes": 0, "checkpoint_freq": 0, "log_freq": 10_000_000},
}
"""The same for every student: MuJoCo's positions alone; all else is the default of DAgger."""
PROTOCOLS: dict[str, tuple[int, int, dict[str, Any]]] = {
    "long": (300_000, 10, {}),
    "full": (100_000, 10, {}),
    "short": (10_000, 5, {"n_envs": 8, "round_steps": 500, "round_updates": 125}),
}
"""Environment steps of each student, episodes of the measurement (on starts of their own, which the teacher plays,
too) and settings: the defaults, and those of experiments/teacher_student/methods.py, where such a student kept 0.26 of
the SAC HalfCheetah and 0.12 of the TQC Hopper (dagger, 5 seeds)."""
SEEDS = (0, 1, 2, 3, 4)
"""One student each, those of a cell in one update."""
