"""Statistics of SB3's ``VecNormalize``, read from its pickle without running code in it.

The pickle is read as data (``pickles``): nothing it names is looked up or called, NumPy included. The statistics are
rebuilt from their bytes.
"""

from __future__ import annotations

import io
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from policykd.core.errors import PolicyKDError, one_line, reraise
from policykd.core.normaliser import TRAINED_ON_SCALED
from policykd.teachers.pickles import Call, Name, array, load


class Normaliser(NamedTuple):
    """Normalisation of observations and rewards by a ``VecNormalize``; None for what it does not normalise."""

    mean: Tensor | None
    """Means of the observations ``(O,)``, float64."""
    std: Tensor | None
    """Their standard deviations ``(O,)``, float64, never 0."""
    clip: float
    """Normalised observations are clipped to +-clip."""
    reward_std: float
    """Divisor of rewards: a value times this is a return in the task's units. 1 if rewards were not normalised."""
    groups: tuple[str, ...] = ()
    """Groups of a dict observation, in the order of their statistics."""
    frames: int = 1
    """Number of observations stacked after normalisation (``VecFrameStack`` around it)."""

    def __call__(self, observations: Tensor) -> Tensor:
        """Normalise raw observations ``(B, O)``."""
        if self.mean is None or self.std is None:
            return observations
        return ((observations - self.mean) / self.std).clamp(-self.clip, self.clip).to(observations.dtype)

    def stacked(self, frames: int, row: int) -> Normaliser:
        """The normaliser of ``frames`` stacked observations, joined along the last axis of length ``row`` as in SB3."""
        if self.mean is None or self.std is None:
            return self
        mean, std = (rows.reshape(-1, row).repeat(1, frames).ravel() for rows in (self.mean, self.std))
        return self._replace(mean=mean, std=std, frames=frames)

    def to(self, device: torch.device) -> Normaliser:
        """The same on another device."""
        if self.mean is None or self.std is None:
            return self
        return self._replace(mean=self.mean.to(device), std=self.std.to(device))


_NAMES = {
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
    ("_codecs", "encode"),  # bytes as protocols 0 to 2 spell them
    ("collections", "OrderedDict"),
    *((module, "_reconstructor") for module in ("copyreg", "copy_reg")),
    *((module, "object") for module in ("builtins", "__builtin__")),
    *((f"numpy.{core}.multiarray", name) for core in ("core", "_core") for name in ("_reconstruct", "scalar")),
    *((f"numpy.{core}.numeric", "_frombuffer") for core in ("core", "_core")),  # as NumPy 1 and NumPy 2 write them
    ("stable_baselines3.common.vec_env.vec_normalize", "VecNormalize"),
    ("stable_baselines3.common.running_mean_std", "RunningMeanStd"),
}
_MODULES = ("gym.spaces", "gymnasium.spaces", "numpy.random")
"""Observation and action spaces, and the generators they sample with."""
MOST_BYTES = 64_000_000


def read(path: Path, trust: bool = False) -> Normaliser:
    """The statistics in a ``vecnormalize.pkl``; nothing in it is ever called.

    Args:
        path: the pickle.
        trust: read it even if it names things that no ``VecNormalize`` needs, such as your own class.

    Raises:
        PolicyKDError: the file names anything but arrays and the parts of a ``VecNormalize``, is damaged, or normalises
            something other than numeric observations.
    """

    def check(name: Name) -> None:
        known = name in _NAMES or any(f"{name.module}.".startswith(f"{module}.") for module in _MODULES)
        if not (known or trust):
            raise PolicyKDError(
                f"teacher: {path} asks for {name.module}.{name.name}"[:300].replace("\n", " ")
                + ", which no VecNormalize needs: it was not loaded (trust=True reads the statistics anyway)"
            )

    with reraise(f"teacher: {path} is damaged or not a VecNormalize (", ")"):
        if path.stat().st_size > MOST_BYTES:
            raise ValueError(f"more than {MOST_BYTES / 1e6:.0f} MB")
        content = _parts(load(io.BytesIO(path.read_bytes()), check))
    return from_object(content, str(path))


def _parts(pickled: Any) -> SimpleNamespace:
    """The relevant attributes of a pickled ``VecNormalize``."""
    if not isinstance(pickled, Call) or not isinstance(pickled.state, dict):
        return SimpleNamespace()
    names = ("epsilon", "clip_obs", "norm_obs", "norm_reward", TRAINED_ON_SCALED)
    parts = SimpleNamespace(**{name: array(pickled.state[name]) for name in names if name in pickled.state})
    for name in ("obs_rms", "ret_rms"):
        statistics = pickled.state.get(name)
        if isinstance(statistics, dict):
            setattr(parts, name, {str(group): _moments(one) for group, one in statistics.items()})
        else:
            setattr(parts, name, _moments(statistics))
    return parts


def _moments(statistics: Any) -> SimpleNamespace | None:
    """Mean and variance of a ``RunningMeanStd``."""
    if not isinstance(statistics, Call) or not isinstance(statistics.state, dict):
        return None
    return SimpleNamespace(
        **{part: array(statistics.state[part]) for part in ("mean", "var") if part in statistics.state}
    )


def from_object(vec_normalize: Any, source: str) -> Normaliser:
    """The statistics of a ``VecNormalize``, live or from a pickle.

    Raises:
        PolicyKDError: it is not one, or normalises something other than arrays or dicts of them.
    """
    try:
        epsilon, clip = float(vec_normalize.epsilon), float(vec_normalize.clip_obs)
        mean = std = None
        groups: tuple[str, ...] = ()
        if vec_normalize.norm_obs:
            statistics = vec_normalize.obs_rms
            if isinstance(statistics, dict):
                groups = tuple(statistics)
            several = list(statistics.values()) if groups else [statistics]
            mean, variance = (torch.cat([_vector(getattr(one, name)) for one in several]) for name in ("mean", "var"))
            std = (variance + epsilon).sqrt()
        scaled = bool(getattr(vec_normalize, TRAINED_ON_SCALED, vec_normalize.norm_reward))
        reward_std = float(np.sqrt(np.float64(vec_normalize.ret_rms.var) + epsilon)) if scaled else 1.0
    except (AttributeError, TypeError, ValueError) as error:
        raise PolicyKDError(f"teacher: {source} has no VecNormalize of observations ({one_line(error)})") from None
    return Normaliser(mean, std, clip, reward_std, groups)


def _vector(values: Any) -> Tensor:
    array = np.asarray(values)
    if array.ndim == 0:
        raise ValueError("statistics of one number")
    return torch.from_numpy(array.astype(np.float64).ravel())
