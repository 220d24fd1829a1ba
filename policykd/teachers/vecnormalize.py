"""Statistics of SB3's ``VecNormalize``, read from its pickle without running anything that is in it.

A pickle is a program that may call any function of Python. This reader looks up every name that the program asks for
in a list of its own: NumPy's arrays and scalars are what they are, the classes that a ``VecNormalize`` is made of
become inert stand-ins that only keep their attributes, and any other name ends the reading before it is called.
"""

from __future__ import annotations

import io
import pickle
from collections import OrderedDict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy._core import multiarray, numeric  # where pickles of arrays say their functions are
from torch import Tensor

from policykd.core.errors import PolicyKDError
from policykd.core.normaliser import TRAINED_ON_SCALED


class Normaliser(NamedTuple):
    """What ``VecNormalize`` does to observations and rewards; ``None`` where it leaves them alone."""

    mean: Tensor | None
    """Means of the observations ``(O,)``, float64."""
    std: Tensor | None
    """Their standard deviations ``(O,)``, float64, never 0."""
    clip: float
    """Normalised observations stay within +-clip."""
    reward_std: float
    """By what rewards were divided: a value times this is a return in the task's units. 1 where they were not."""

    def __call__(self, observations: Tensor) -> Tensor:
        """Raw observations ``(B, O)`` as the networks were trained on them."""
        if self.mean is None or self.std is None:
            return observations
        return ((observations - self.mean) / self.std).clamp(-self.clip, self.clip).to(observations.dtype)

    def to(self, device: torch.device) -> Normaliser:
        """The same on another device."""
        if self.mean is None or self.std is None:
            return self
        return self._replace(mean=self.mean.to(device), std=self.std.to(device))


class _Inert:
    """Stands in for an object of another class: takes any arguments, keeps a dict of attributes, does nothing."""

    def __new__(cls, *arguments: object, **options: object) -> _Inert:
        return object.__new__(cls)

    def __init__(self, *arguments: object, **options: object) -> None:
        pass

    def __setstate__(self, state: object) -> None:
        if isinstance(state, dict):
            vars(self).update(state)


def _latin1(text: str, encoding: str) -> bytes:
    """Bytes as old pickle protocols spell them."""
    if encoding not in ("latin1", "latin-1"):
        raise pickle.UnpicklingError(f"bytes in encoding {encoding}")
    return text.encode("latin1")


_REAL: dict[tuple[str, str], Any] = {
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    ("_codecs", "encode"): _latin1,
    ("collections", "OrderedDict"): OrderedDict,
    **{
        (f"numpy.{core}.{module}", name): getattr(source, name)
        for core in ("core", "_core")  # as NumPy 1 and NumPy 2 write them
        for module, source, name in (
            ("multiarray", multiarray, "_reconstruct"),
            ("multiarray", multiarray, "scalar"),
            ("numeric", numeric, "_frombuffer"),
        )
    },
}
_STAND_INS = {
    ("stable_baselines3.common.vec_env.vec_normalize", "VecNormalize"),
    ("stable_baselines3.common.running_mean_std", "RunningMeanStd"),
}
_STAND_IN_MODULES = ("gym.spaces", "gymnasium.spaces", "numpy.random")
"""Observation and action spaces, and the generators they sample with."""


class _Reader(pickle.Unpickler):
    def __init__(self, file: io.BytesIO, path: Path, trust: bool) -> None:
        super().__init__(file)
        self.path, self.trust = path, trust

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in _REAL:
            return _REAL[module, name]
        known = any(module == prefix or module.startswith(f"{prefix}.") for prefix in _STAND_IN_MODULES)
        if (module, name) in _STAND_INS or (known and "." not in name):
            return type(name, (_Inert,), {})
        if self.trust:
            return super().find_class(module, name)
        raise PolicyKDError(
            f"teacher: {self.path} asks for {module}.{name}, which no VecNormalize needs: it was not loaded "
            "(trust=True loads it and runs what is in it)"
        )


def read(path: Path, trust: bool = False) -> Normaliser:
    """The statistics in a ``vecnormalize.pkl``.

    Args:
        path: the pickle.
        trust: run what the pickle asks for, for files of your own with other classes in them.

    Raises:
        PolicyKDError: the file asks for anything but arrays and the parts of a ``VecNormalize``, is damaged, or
            normalises something other than one vector.
    """
    try:
        content = _Reader(io.BytesIO(path.read_bytes()), path, trust).load()
    except PolicyKDError:
        raise
    except Exception as error:  # a damaged pickle fails in any way
        raise PolicyKDError(f"teacher: {path} is damaged or no VecNormalize ({type(error).__name__})") from None
    return from_object(content, str(path))


def from_object(vec_normalize: Any, source: str) -> Normaliser:
    """The statistics of a ``VecNormalize``, live or of a pickle.

    Raises:
        PolicyKDError: it is none, or it normalises dictionaries of observations.
    """
    try:
        epsilon, clip = float(vec_normalize.epsilon), float(vec_normalize.clip_obs)
        mean = std = None
        if vec_normalize.norm_obs:
            mean, variance = (_vector(getattr(vec_normalize.obs_rms, name)) for name in ("mean", "var"))
            std = (variance + epsilon).sqrt()
        scaled = bool(getattr(vec_normalize, TRAINED_ON_SCALED, vec_normalize.norm_reward))
        reward_std = float(np.sqrt(np.float64(vec_normalize.ret_rms.var) + epsilon)) if scaled else 1.0
    except (AttributeError, TypeError, ValueError) as error:
        raise PolicyKDError(
            f"teacher: {source} holds no VecNormalize of one observation vector ({str(error).splitlines()[0]})"
        ) from None
    return Normaliser(mean, std, clip, reward_std)


def _vector(values: Any) -> Tensor:
    array = np.asarray(values)
    if array.ndim != 1:
        raise ValueError(f"statistics of shape {array.shape}")
    return torch.from_numpy(array.astype(np.float64))
