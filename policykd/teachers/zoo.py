"""Reads how an agent was trained from the files of rl-baselines3-zoo beside it."""

from __future__ import annotations

import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import yaml

from policykd.core.archives import read_npz
from policykd.core.errors import PolicyKDError
from policykd.core.parsing import MOST_YAML, parse_json, parse_yaml, read_text
from policykd.teachers.policy import Recorded

VELOCITIES = {
    "CartPole": (1, 3),
    "MountainCar": (1,),
    "MountainCarContinuous": (1,),
    "Pendulum": (2,),
    "LunarLander": (2, 3, 5),
    "LunarLanderContinuous": (2, 3, 5),
}
"""Columns that the zoo's ``MaskVelocityWrapper`` sets to 0, by task."""

APPLIED = re.compile(r"stable_baselines3\..+\.(VecFrameStack|VecNormalize)")
"""VecEnv wrappers that correspond to ``frame_stack`` and ``normalize``."""


class Wrapper(NamedTuple):
    """A wrapper of an agent's training environment."""

    name: str
    """Its class with its module, such as ``rl_zoo3.wrappers.MaskVelocityWrapper``."""
    options: dict[str, Any]

    @property
    def short(self) -> str:
        """Its class name."""
        return self.name.rpartition(".")[2]

    def of(self, *inner: str) -> str:
        """The Python call that makes it, around ``inner``."""
        return f"{self.short}({', '.join([*inner, *(f'{key}={value!r}' for key, value in self.options.items())])})"

    def __str__(self) -> str:
        return self.of()


class Training(NamedTuple):
    """How an agent was trained, as far as its folder says."""

    normalised: bool = False
    wrappers: tuple[Wrapper, ...] = ()
    frame_stack: int = 1
    env_kwargs: Mapping[str, Any] = MappingProxyType({})
    env_id: str | None = None


class _Loader(yaml.SafeLoader):
    """Loads plain values and the zoo's tags of ordered dicts and tuples; classes and objects only by name."""


def _ordered(loader: _Loader, node: yaml.Node) -> Any:
    parts = loader.construct_sequence(node, deep=True) if isinstance(node, yaml.SequenceNode) else []
    return dict(parts[0]) if parts else {}


_TAG = "tag:yaml.org,2002:python/"
_Loader.add_constructor(f"{_TAG}object/apply:collections.OrderedDict", _ordered)
_Loader.add_constructor(f"{_TAG}tuple", lambda loader, node: tuple(loader.construct_sequence(node, deep=True)))
_Loader.add_multi_constructor(f"{_TAG}name:", lambda loader, name, node: name)  # of a settings file in Python
_Loader.add_multi_constructor(f"{_TAG}object", lambda loader, rest, node: f"!!python/object{rest}")


def training(path: Path) -> Training:
    """How the agent in a zip was trained, from ``config.yml``, ``args.yml`` and ``env_kwargs.yml`` beside it.

    Raises:
        PolicyKDError: one of them cannot be read, or names something that it should not.
    """
    folder = _folder(path)
    if folder is None:
        return Training()
    config, arguments, env_kwargs = (_read(folder / f"{name}.yml") for name in ("config", "args", "env_kwargs"))
    of_task: dict[str, Any] = {}
    for name, said in (("config", config), ("args", arguments)):  # where the zoo's command line overrules
        given = said.get("env_kwargs") or {}
        if not isinstance(given, dict):
            raise PolicyKDError(f"teacher: {folder}/{name}.yml has env_kwargs that are not settings: {given!r:.80}")
        of_task = given or of_task
    around = _wrappers(config, "vec_env_wrapper", folder)
    applied = {wrapper.short: wrapper.options for wrapper in around if APPLIED.fullmatch(wrapper.name)}
    stack = applied.get("VecFrameStack", {}).get("n_stack") or config.get("frame_stack") or 1
    if not re.fullmatch(r"\d{1,9}(\.0)?", str(stack)):
        raise PolicyKDError(f"teacher: {folder}/config.yml has a frame_stack that is not a number: {stack!r:.80}")
    env_id = arguments.get("env")
    return Training(
        _normalises(config.get("normalize")) or "VecNormalize" in applied,
        # Wrappers of the VecEnv are nearer to the agent.
        _wrappers(config, "env_wrapper", folder)
        + tuple(wrapper for wrapper in around if not APPLIED.fullmatch(wrapper.name)),
        int(float(stack)),
        {**of_task, **env_kwargs},
        env_id if isinstance(env_id, str) else None,
    )


def recorded(path: Path) -> Recorded | None:
    """The return recorded in ``evaluations.npz`` or ``results.json`` in a zip's folder; None if there is none."""
    file = path.parent / "evaluations.npz"
    try:
        results, steps = read_npz(file, ("results", "timesteps"))
        means = results.reshape(len(steps), -1).mean(1)
        checkpoint = re.fullmatch(r".+_(\d+)_steps", path.stem)
        if path.stem == "best_model":
            return Recorded(float(means.max()), file.name)
        which = -1 if checkpoint is None else int(np.abs(steps - int(checkpoint[1])).argmin())
        return Recorded(float(means[which]), file.name)
    except (OSError, ValueError, LookupError, TypeError, OverflowError, zipfile.BadZipFile):
        pass
    file = path.parent / "results.json"
    try:
        return Recorded(float(parse_json(read_text(file))["mean_reward"]), file.name) if file.is_file() else None
    except (OSError, ValueError, KeyError, TypeError, OverflowError):
        return None


def _folder(path: Path) -> Path | None:
    """The folder with the settings of an agent's run: the one named after it, its own, or its run's."""
    places = [path.parent / path.stem, path.parent]
    if path.stem == "best_model" or re.fullmatch(r".+_\d+_steps", path.stem):
        places += sorted(folder for folder in path.parent.iterdir() if folder.is_dir())
    names = ("config.yml", "args.yml", "env_kwargs.yml")
    return next((place for place in places if any((place / name).is_file() for name in names)), None)


def _read(file: Path) -> dict[str, Any]:
    if not file.is_file():
        return {}
    try:
        found = parse_yaml(read_text(file, MOST_YAML, "replace"), _Loader)
        if isinstance(found, list) and found and isinstance(found[0], list):  # pairs, where the tag was lost
            found = dict(found[0])
        if not isinstance(found, dict | None):
            raise ValueError("it holds no settings by name")
    except (OSError, ValueError, TypeError) as error:
        reason = " ".join(str(error).split())
        raise PolicyKDError(f"teacher: {file} cannot be read as settings: {reason:.120}") from None
    return {str(key): value for key, value in (found or {}).items()}


def _normalises(value: Any) -> bool:
    """Whether the zoo's ``normalize`` includes observations."""
    if isinstance(value, str):
        return re.match(r"\s*false|.*norm_obs\W+false", value.lower()) is None
    return value.get("norm_obs", True) is not False if isinstance(value, dict) else bool(value)


def _wrappers(config: Mapping[str, Any], key: str, folder: Path) -> tuple[Wrapper, ...]:
    """Parse the zoo's ``env_wrapper`` or ``vec_env_wrapper``: a name, a dict of a name and its options, or a list."""
    found, value = [], config.get(key)
    for one in value if isinstance(value, list) else [] if value in (None, "None", "") else [value]:
        name, options = next(iter(one.items())) if isinstance(one, dict) and len(one) == 1 else (one, {})
        if not isinstance(name, str) or not isinstance(options or {}, dict):
            raise PolicyKDError(f"teacher: {folder}/config.yml has no name in its {key}: {one!r:.80}")
        found.append(Wrapper(name, options or {}))
    return tuple(found)
