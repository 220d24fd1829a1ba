"""From whatever a user calls a teacher to its policy: which kind of thing it is, and who can read it."""

from __future__ import annotations

import logging
import re
import zipfile
from pathlib import Path
from typing import Any, NamedTuple

import torch
from stable_baselines3.common.base_class import BaseAlgorithm
from torch import nn

from policykd.core.errors import PolicyKDError
from policykd.teachers import programs, sb3, vecnormalize
from policykd.teachers.policy import Policy
from policykd.teachers.task import TaskSpaces
from policykd.training.run_folder import CHECKPOINT

log = logging.getLogger("policykd")
STATISTICS = ("vecnormalize.pkl", "vec_normalize.pkl")
"""Names of a saved ``VecNormalize``: the zoo's, and those of the Hugging Face Hub."""


class Options(NamedTuple):
    """How a file should be read, where it does not say."""

    algorithm: str | None
    activation: str | None
    vecnormalize: Path | None
    trust: bool


def load_policy(source: Any, env: Any, task: TaskSpaces | None, options: Options, device: torch.device) -> Policy:
    """The policy of any source of ``Teacher.load``.

    Raises:
        PolicyKDError: there is nothing at a path, or nothing that can act.
    """
    if isinstance(source, str | Path):
        return _from_path(Path(source), env, task, options, device)
    if isinstance(source, BaseAlgorithm):
        return sb3.from_model(source, device, options.activation)
    if hasattr(source, "to_sb3"):  # an agent of policykd
        return sb3.from_model(source.to_sb3(), device)
    if isinstance(source, nn.Module) and not hasattr(source, "predict"):  # SB3's policies act by predict
        return programs.from_module(programs.copied(source), f"module {type(source).__name__}", task, device)
    if callable(source) or hasattr(source, "predict"):
        return programs.from_callable(source, task, device)
    raise PolicyKDError(f"teacher: a {type(source).__name__} cannot act; see docs/teachers.md for what can")


def _from_path(path: Path, env: Any, task: TaskSpaces | None, options: Options, device: torch.device) -> Policy:
    if path.is_dir():
        if (path / CHECKPOINT).is_file():
            return _own(path, env, device)
        path = _zip_in(path)
    if not path.is_file():
        raise PolicyKDError(f"teacher: there is no file {path}")
    if path.suffix == ".safetensors":
        return _own(path, env, device)
    if path.suffix == ".onnx":
        return programs.from_onnx(path, task, device)
    members = _members(path)
    if sb3.MEMBER in members:
        return _with_statistics(path, options, device)
    if any("/code/" in name.lower() for name in members):
        return programs.from_torchscript(path, task, device, options.trust)
    raise PolicyKDError(
        f"teacher: {path} is no agent of SB3 (a zip with policy.pth), no TorchScript, no ONNX and no checkpoint of "
        "policykd"
    )


def _own(path: Path, env: Any, device: torch.device) -> Policy:
    from policykd.training.loading import load_agent

    model = load_agent(path, env=env, device="cpu").to_sb3()
    return sb3.from_model(model, device).changed(source=str(path))


def _members(path: Path) -> list[str]:
    """What is in a zip; nothing where it is none."""
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.namelist()
    except (zipfile.BadZipFile, OSError):
        return []


def _zip_in(folder: Path) -> Path:
    """The agent in a folder: the zoo's last one, or the best, or the only one."""
    task = re.sub(r"_\d+$", "", folder.name)
    zips = [path for path in sorted(folder.glob("*.zip")) if sb3.MEMBER in _members(path)]
    for name in (f"{task}.zip", "best_model.zip"):
        if folder / name in zips:
            return folder / name
    if len(zips) != 1:
        found = ", ".join(path.name for path in zips) or "none"
        raise PolicyKDError(f"teacher: {folder} must hold one agent of SB3 (zip); found: {found}")
    return zips[0]


def _with_statistics(path: Path, options: Options, device: torch.device) -> Policy:
    """An agent of SB3 with the normaliser that belongs to it."""
    statistics = options.vecnormalize or _statistics_of(path)
    normaliser = None if statistics is None else vecnormalize.read(statistics, options.trust)
    policy = sb3.from_zip(path, normaliser, device, options.algorithm, options.activation, options.trust)
    if normaliser is None and _was_normalised(path):
        log.warning("teacher %s was trained on normalised observations and there is no vecnormalize.pkl", path)
        return policy.changed(missing_normaliser=True)
    return policy


def _beside(path: Path) -> list[Path]:
    """Where the zoo, its copies on the Hub and policykd's own run folders keep what belongs to an agent."""
    places = [path.parent / path.stem, path.parent]
    if path.stem == "best_model":
        places += [folder for folder in path.parent.iterdir() if folder.is_dir()]
    return places


def _statistics_of(path: Path) -> Path | None:
    """An agent's ``VecNormalize``."""
    return next((place / name for place in _beside(path) for name in STATISTICS if (place / name).is_file()), None)


def _was_normalised(path: Path) -> bool:
    """Whether the zoo's settings beside an agent say that its observations were normalised."""
    configs = [place / "config.yml" for place in _beside(path) if (place / "config.yml").is_file()]
    text = "\n".join(_beginning(config) for config in configs)
    found = re.search(r"^[ \t-]*normalize(?:: *|\n[ \t-]*)(\S.*)$", text, re.MULTILINE)
    return found is not None and not re.match(r"false|.*norm_obs\W+false", found[1].lower())


def _beginning(path: Path) -> str:
    """The text of a file of settings, as far as settings go."""
    with open(path, errors="replace") as file:
        return file.read(100_000)
