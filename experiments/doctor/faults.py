"""What is broken, and which check should say so: declared before any of it was run."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from stable_baselines3.common.running_mean_std import RunningMeanStd
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from policykd.teachers import Teacher, vecnormalize

Act = Callable[[np.ndarray], np.ndarray]
PENDULUM, CHEETAH = "sac/Pendulum-v1_1", "ppo/HalfCheetah-v3_1"
WIDE = np.array([1, 1, 1e4], np.float32)
"""What observations are multiplied by where one is too wide."""


@dataclass(frozen=True)
class Fault:
    """One thing that is broken."""

    check: str
    """Which check should say so; empty where nothing is broken."""
    teacher: Callable[[Act, np.random.Generator], Act] | None = None
    """The broken teacher made of the good one; None is the agent's file itself."""
    make: Callable[[], gym.Env] | str = "Pendulum-v1"
    """The task."""
    options: dict[str, Any] = field(default_factory=dict)
    """What ``diagnose`` is told; without ``updates`` the teacher alone is looked at."""
    normaliser: str = ""
    """Of the agent of HalfCheetah: "as it is", "missing" or "another run's"; empty is the agent of Pendulum."""


class Terminates(gym.Wrapper):
    """Reports the time limit as a failure."""

    def step(self, action: np.ndarray) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """One step."""
        observation, reward, terminated, truncated, info = self.env.step(action)
        return observation, reward, terminated or truncated, False, info


def _wide() -> gym.Env:
    return gym.wrappers.TransformObservation(gym.make("Pendulum-v1"), lambda o: o * WIDE, None)


def _noisy(std: float) -> Callable[[Act, np.random.Generator], Act]:
    def teacher(act: Act, generator: np.random.Generator) -> Act:
        return lambda o: np.clip(act(o) + std * generator.standard_normal(act(o).shape), -2, 2)

    return teacher


def _wide_bounds() -> gym.Env:
    return gym.wrappers.RescaleAction(gym.make("Pendulum-v1"), np.zeros(1), np.full(1, 1000.0))


UPDATES = {"updates": 1_000}
FAULTS: dict[str, Fault] = {
    "nothing": Fault("", options=UPDATES),
    "teacher: actions of -1 to 1": Fault("action scale", lambda act, _: lambda o: act(o) / 2),
    "teacher: always the same action": Fault("action scale", lambda act, _: lambda o: 0 * act(o) + 0.5),
    "teacher: pushes the other way": Fault("return", lambda act, _: lambda o: -act(o)),
    "teacher: full force only": Fault("actions at bounds", lambda act, _: lambda o: 2 * np.sign(act(o))),
    "teacher: samples, deviation 0.5": Fault("noise", _noisy(0.5)),
    "teacher: samples, deviation 0.01": Fault("noise", _noisy(0.01)),
    "teacher: not a number, where it spins": Fault(
        "answers", lambda act, _: lambda o: np.where(np.abs(o[..., 2:]) > 7, np.nan, act(o))
    ),
    "task: gravity of 15 instead of 10": Fault("recorded return", make=lambda: gym.make("Pendulum-v1", g=15.0)),
    "task: time limit as failure": Fault("time limits", make=lambda: Terminates(gym.make("Pendulum-v1"))),
    "task: a column 10,000 times wider": Fault(
        "observations",
        lambda act, _: lambda o: act(o / WIDE),
        _wide,
        {**UPDATES, "normalize": False},
    ),
    "task: actions of 0 to 1,000": Fault(
        "action bounds", lambda act, _: lambda o: 500 + 250 * act(o), _wide_bounds, UPDATES
    ),
    "student: no velocity": Fault("what the student sees", options={**UPDATES, "student_observations": (0, 1)}),
    "student: no cosine": Fault("what the student sees", options={**UPDATES, "student_observations": (1, 2)}),
    "student: 2x2": Fault("capacity", options={**UPDATES, "net_arch": (2, 2)}),
    "student: 8x8": Fault("capacity", options={**UPDATES, "net_arch": (8, 8)}),
    "student: learning rate 1e-6": Fault("learning rate", options={**UPDATES, "learning_rate": 1e-6}),
    "student: learning rate 1e-4": Fault("learning rate", options={**UPDATES, "learning_rate": 1e-4}),
    "student: learning rate 0.3": Fault("learning rate", options={**UPDATES, "learning_rate": 0.3}),
    "nothing, HalfCheetah": Fault("", make="HalfCheetah-v5", normaliser="as it is"),
    "teacher: normaliser missing": Fault("normaliser", make="HalfCheetah-v5", normaliser="missing"),
    "teacher: normaliser of another run": Fault("normaliser", make="HalfCheetah-v5", normaliser="another run's"),
}
"""By what is wrong. Without an agent of HalfCheetah its rows are left out."""


def teacher_of(fault: Fault, teachers: Path, folder: Path, seed: int) -> Any:
    """The broken teacher.

    Args:
        fault: what is broken.
        teachers: the zoo's agents.
        folder: an empty one, for a changed copy of an agent.
        seed: of what it draws.
    """
    if fault.normaliser:
        return teachers / CHEETAH if fault.normaliser == "as it is" else _copy(teachers / CHEETAH, folder, fault)
    if fault.teacher is None:
        return teachers / PENDULUM
    good = Teacher.load(teachers / PENDULUM, "Pendulum-v1")

    def act(observations: np.ndarray) -> np.ndarray:
        return good.predict(observations)[0]

    return fault.teacher(act, np.random.default_rng(seed))


def _copy(source: Path, folder: Path, fault: Fault) -> Path:
    """The agent without its statistics, or with those of other observations: a hundredth of each second variance."""
    copy = folder / source.name
    shutil.copytree(source, copy)
    (statistics,) = copy.rglob("vecnormalize.pkl")
    if fault.normaliser == "missing":
        statistics.unlink()
        return copy
    own = vecnormalize.read(statistics)
    assert own.mean is not None and own.std is not None
    other = RunningMeanStd(shape=tuple(own.mean.shape))
    other.mean, other.var = own.mean.numpy(), own.std.square().numpy()
    other.var[::2] /= 100
    kept = VecNormalize(DummyVecEnv([lambda: gym.make("HalfCheetah-v5")]), clip_obs=own.clip)
    kept.obs_rms = other  # type: ignore[assignment]
    kept.save(str(statistics))
    return copy
