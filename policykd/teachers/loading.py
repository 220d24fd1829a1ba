"""Recognises what kind of teacher a user passes, and loads its policy."""

from __future__ import annotations

import logging
import re
import zipfile
from pathlib import Path
from typing import Any, NamedTuple

import torch
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.policies import BasePolicy
from torch import nn

from policykd.core.archives import Archive
from policykd.core.checkpoint import is_checkpoint
from policykd.core.errors import PolicyKDError, reraise
from policykd.core.fields import as_type
from policykd.core.files import CHECKPOINT
from policykd.teachers import (
    controllers,
    modules,
    own_run,
    programs,
    sb3,
    sbx,
    statistics,
    torch_files,
    training_wrappers,
    zoo,
)
from policykd.teachers.observation_map import of_groups, through
from policykd.teachers.policy import Policy, normalised, preprocessed
from policykd.teachers.task import TaskSpaces
from policykd.teachers.vecnormalize import Normaliser

log = logging.getLogger("policykd")


class Options(NamedTuple):
    """What the user says about a source that does not say it itself."""

    algorithm: str | None = None
    activation: str | None = None
    vecnormalize: statistics.Given = None
    network: nn.Module | None = None
    trust: bool = False
    mapped: bool = False
    """Whether the user's ``observation_map`` makes the teacher's observations, whatever its training's wrappers."""


def load_policy(source: Any, env: Any, task: TaskSpaces | None, options: Options, device: torch.device) -> Policy:
    """The policy of any source of ``Teacher.load``. If it reads dicts, its groups are looked up in the task.

    Raises:
        PolicyKDError: there is nothing at a path, or nothing that can act.
    """
    as_type("trust", options.trust, bool)  # "no" would be True
    policy = _policy(source, env, task, options, device)
    return policy if task is None or options.mapped else of_groups(policy, task.groups)


def _policy(source: Any, env: Any, task: TaskSpaces | None, options: Options, device: torch.device) -> Policy:
    if isinstance(source, str | Path):
        return _from_path(Path(source).expanduser(), env, task, options, device)
    if isinstance(source, BaseAlgorithm | BasePolicy):
        policy = sb3.from_live(source, device, options.activation)
        chain, missing = statistics.of_live(source, options.vecnormalize, options.trust, policy.source)
        if isinstance(source, BaseAlgorithm) and not options.mapped:
            training_wrappers.warn_wrappers(source, policy.source, task)
        return normalised(policy, chain, device).changed(missing_normaliser=missing)
    given = statistics.read(options.vecnormalize, options.trust)
    if hasattr(source, "to_sb3"):  # an agent of policykd
        try:
            model = source.twin()
        except PolicyKDError:  # SB3 has no counterpart
            if options.vecnormalize is not None:
                raise PolicyKDError("vecnormalize: an agent of policykd has its own normaliser: leave it out") from None
            return own_run.of_agent(source, device)
        chain = given if options.vecnormalize is not None else statistics.of_env(model.get_env(), "the agent")
        policy = through(normalised(sb3.from_live(model, device), chain, device), source.view)
        return own_run.with_value_if_learnt(policy, source.learner, source.settings["config"])
    if isinstance(getattr(source, "policy", None), Policy):  # a Teacher
        policy = preprocessed(source.policy, source.map).changed(observation_size=source.observation_size)
        return normalised(policy, given, device)
    if isinstance(source, nn.Module) and not hasattr(source, "predict"):
        name = f"module {type(source).__name__}"
        policy = modules.from_module(modules.copied(source), name, task, device)
    elif controllers.is_controller(source):
        policy = controllers.from_controller(source, task, device)
    elif callable(source) or hasattr(source, "predict"):
        policy = modules.from_callable(source, task, device)
    else:
        raise PolicyKDError(f"teacher: a {type(source).__name__} cannot act; see docs/teachers.md for what can")
    return normalised(policy, given, device)


def _from_path(path: Path, env: Any, task: TaskSpaces | None, options: Options, device: torch.device) -> Policy:
    path = _file(path)
    if path.suffix == ".safetensors" or path.name == CHECKPOINT or is_checkpoint(path):
        return _own(path, env, options, device)
    given = statistics.read(options.vecnormalize, options.trust)
    if path.suffix == ".onnx":
        return normalised(programs.from_onnx(path, task, device), given, device)
    members = _members(path)
    if path.is_dir() or sb3.MEMBER in members or _is_sbx(path, members):
        return _agent(path, task, options, device)
    if any("/code/" in name.lower() for name in members):
        return normalised(programs.from_torchscript(path, task, device, options.trust), given, device)
    if any(name.endswith("/data.pkl") for name in members) or _starts(path).startswith(b"\x80"):  # new and old torch
        has_given = options.vecnormalize is not None
        with reraise(f"teacher: {path} cannot be read as a policy (", ")"):
            policy, chain = torch_files.load(path, task, device, options.network, options.activation, has_given)
        if has_given:
            return normalised(policy, given, device).changed(missing_normaliser=False)
        if policy.missing_normaliser:
            log.warning("teacher %s: CleanRL normalises observations, but this file has no statistics of them", path)
        return normalised(policy, chain, device)
    raise PolicyKDError(f"teacher: {path} is {_guess(path, members)}")


def _file(path: Path) -> Path:
    """Resolve a path to a file: ``.zip`` may be left out as in SB3, and a folder stands for the agent in it."""
    beside = Path(f"{path}.zip")
    if path.is_dir():
        if (path / CHECKPOINT).is_file():
            return path / CHECKPOINT
        if (path / "data").is_file() and (path / sb3.MEMBER).is_file():
            return path  # a zip of SB3, unpacked
        return beside if beside.is_file() and not any(path.glob("*.zip")) else _zip_in(path)
    if path.is_file():
        return path
    if beside.is_file():
        return beside
    text = str(path)
    if re.match(r"https?:/", text) or re.fullmatch(r"[\w.-]+/[\w.-]+", text):
        raise PolicyKDError(
            f"teacher: there is no file {path}; teachers are not downloaded: "
            "huggingface_hub.hf_hub_download(repo, file) gives the path of one on the Hub"
        )
    raise PolicyKDError(f"teacher: there is no file {path}")


def _own(path: Path, env: Any, options: Options, device: torch.device) -> Policy:
    if options.vecnormalize is not None:
        raise PolicyKDError(f"vecnormalize: {path} of policykd has its own normaliser: leave it out")
    return own_run.read(path, env, device)


def _members(path: Path) -> list[str]:
    """The member names of a zip; none if the file is not a zip."""
    try:
        with Archive(path) as archive:
            return archive.names
    except (ValueError, zipfile.BadZipFile, OSError):
        return []


def _is_sbx(path: Path, members: list[str]) -> bool:
    return "data" in members and sbx.is_sbx(sb3.read_text(path))


def _guess(path: Path, members: list[str]) -> str:
    """What an unsupported file seems to be, and what to do, as the end of an error line."""
    if any(name.endswith(f"/{sb3.MEMBER}") for name in members):
        return "a zipped folder with an SB3 agent in it: unpack it and give the folder or zip inside"
    if "data" in members:
        return (
            "a zip without the policy.pth of SB3, and no agent of SBX whose data can be read (it may be too long): "
            "load it with its library, and give the live model: Teacher.load(model, env)"
        )
    start = _starts(path)
    if not start:
        return "empty, so not an SB3 agent (a zip with policy.pth): copy it again"
    if start.startswith(b"version https://git-lfs"):
        return "a git-lfs pointer, not an SB3 agent (a zip with policy.pth): run git lfs pull"
    return (
        "not an SB3 agent (a zip with policy.pth), TorchScript, ONNX, tensors saved by torch.save or a checkpoint of "
        "policykd"
    )


def _starts(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(40)


def _zip_in(folder: Path) -> Path:
    """The agent in a folder: the zoo's last one, the best, or the only one."""
    task = re.sub(r"_\d+$", "", folder.name)
    zips = [
        path
        for path in sorted(folder.glob("*.zip"))
        if sb3.MEMBER in (members := _members(path)) or _is_sbx(path, members)
    ]
    for name in (f"{task}.zip", "best_model.zip"):
        if folder / name in zips:
            return folder / name
    if len(zips) != 1:
        found = ", ".join(path.name for path in zips) or "none"
        raise PolicyKDError(f"teacher: {folder} must contain one SB3 agent (zip); found: {found}")
    return zips[0]


def _agent(path: Path, task: TaskSpaces | None, options: Options, device: torch.device) -> Policy:
    """An SB3 agent with its normaliser, on the observations of its task."""
    training = zoo.training(path)
    with reraise(f"teacher: {path} cannot be read as an agent of SB3 (", ")"):
        if sbx.is_sbx(data := sb3.read_text(path)):
            if options.algorithm is not None:
                raise PolicyKDError(f"algorithm: {path} is an SBX agent, which names its algorithm: leave it out")
            policy = sbx.from_zip(path, data, device, options.activation)
        else:
            policy = sb3.from_zip(path, device, options.algorithm, options.activation, options.trust)
    if options.vecnormalize is None:
        file, missing, unclear = statistics.find(path, training.normalised)
    else:
        file, missing, unclear = None, False, None
    chain = statistics.read(file if options.vecnormalize is None else options.vecnormalize, options.trust)
    if missing:
        said = "" if unclear is None else f"; {unclear} may be it: vecnormalize=FILE"
        log.warning("teacher %s was trained on normalised observations, but there is no vecnormalize.pkl%s", path, said)
    chain = tuple(_each_frame(normaliser, policy, training.frame_stack) for normaliser in chain)
    policy = normalised(policy, chain, device).changed(missing_normaliser=missing, recorded=zoo.recorded(path))
    return policy if options.mapped else training_wrappers.apply(policy, training, task)


def _each_frame(normaliser: Normaliser, policy: Policy, frames: int) -> Normaliser:
    """The normaliser applied to every frame, if sizes show that the zoo stacked observations after it."""
    mean = normaliser.mean
    if mean is None or frames * len(mean) != policy.observation_size or policy.space is not None:
        return normaliser
    return normaliser.stacked(frames, len(mean))
