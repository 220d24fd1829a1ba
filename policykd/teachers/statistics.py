"""Finds the ``VecNormalize`` of an agent, and never takes another agent's."""

from __future__ import annotations

import logging
import re
from pathlib import Path
from typing import Any, Literal, NamedTuple

from gymnasium.spaces import flatdim
from stable_baselines3.common import vec_env
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper, VecNormalize

from policykd.core.errors import PolicyKDError
from policykd.teachers import sb3, vecnormalize
from policykd.teachers.sb3_text import trained_normalised
from policykd.teachers.vecnormalize import Normaliser

log = logging.getLogger("policykd")
Given = str | Path | VecEnv | Literal[False] | None
"""The ``vecnormalize`` argument: a file, an environment that has some, or False for none; None searches for it."""
NAMES = ("vecnormalize.pkl", "vec_normalize.pkl")
"""File names of a saved ``VecNormalize``: the zoo's, and the Hugging Face Hub's."""
CHECKPOINT = re.compile(r"(.+)_(\d+)_steps")
"""File names of SB3's ``CheckpointCallback``."""
HARMLESS = (
    *(vec_env.VecNormalize, vec_env.VecMonitor, vec_env.VecCheckNan, vec_env.VecVideoRecorder),
    vec_env.VecTransposeImage,
)
"""Wrappers that do not change vectors, or that are applied here."""


class Found(NamedTuple):
    """The normaliser found for an agent's file."""

    file: Path | None
    missing: bool
    """Whether the agent was trained on normalised observations, but none was found."""
    unclear: Path | None
    """A file that may be the missing one."""


def read(given: Given, trust: bool = False) -> tuple[Normaliser, ...]:
    """The normalisers given by a user, innermost first; none for False and None.

    Raises:
        PolicyKDError: there is no such file, or it is not a ``VecNormalize``.
    """
    if given is None or given is False:
        return ()
    found = of_env(given, "vecnormalize") if isinstance(given, VecEnv) else ()
    if found:
        return found
    if not isinstance(given, str | Path):
        raise PolicyKDError(
            f"vecnormalize: got a {type(given).__name__}; it must be a file, a live VecNormalize or False"
        )
    file = Path(given).expanduser()
    if not file.is_file():
        raise PolicyKDError(f"vecnormalize: there is no file {given}")
    return (vecnormalize.read(file, trust),)


def of_env(env: VecEnv | None, source: str) -> tuple[Normaliser, ...]:
    """The normalisers of a live environment, innermost first."""
    found: list[Normaliser] = []
    frames = 1
    while isinstance(env, VecEnvWrapper):
        if isinstance(env, VecNormalize):
            row = (env.observation_space.shape or (1,))[-1]
            found.insert(0, vecnormalize.from_object(env, source).stacked(frames, row))
        elif isinstance(env, vec_env.VecFrameStack) and env.stacked_obs.stack_dimension == -1:  # the last axis
            n = flatdim(env.observation_space) // flatdim(env.venv.observation_space)
            frames *= n
            log.warning("teacher %s was trained on %d stacked observations: env= must stack them, too", source, n)
        elif not isinstance(env, HARMLESS):
            log.warning(
                "teacher %s was trained with %s, which is not applied: it must be part of env=",
                source,
                type(env).__name__,
            )
        env = env.venv
    return tuple(found)


def of_live(source: Any, given: Given, trust: bool, name: str) -> tuple[tuple[Normaliser, ...], bool]:
    """The normalisers of a live agent, given or from its environment, and whether one is missing."""
    if given is not None:
        return read(given, trust), False
    model = source if isinstance(source, BaseAlgorithm) else None
    chain = of_env(None if model is None else model.get_env(), name)
    trained = None if model is None else trained_normalised(vars(model))
    if not chain and trained:
        log.warning(
            "teacher %s was trained on normalised observations, but its environment has no VecNormalize: give "
            "vecnormalize=FILE",
            name,
        )
    elif not chain and trained is None and (model is None or model.get_env() is None):
        log.warning(
            "teacher %s has no environment, so it is unknown whether its observations were normalised: give "
            "vecnormalize=FILE if they were, vecnormalize=False if not",
            name,
        )
    return chain, bool(trained and not chain)


def find(path: Path, normalised_by_config: bool) -> Found:
    """Find the ``VecNormalize`` that belongs to a zip.

    Args:
        path: the zip.
        normalised_by_config: whether the zoo's settings beside it say that observations were normalised.

    Raises:
        PolicyKDError: there is one that may be its own or another agent's.
    """
    trained = trained_normalised(sb3.read_text(path))
    file = _own(path) or _of_run(path, trained) or _shared(path, trained)
    checkpoint = CHECKPOINT.fullmatch(path.stem)
    siblings = checkpoint and any(path.parent.glob(f"{checkpoint[1]}_vecnormalize_*_steps.pkl"))
    missing = file is None and bool(trained or normalised_by_config or siblings)
    unclear = _unclear(path) if file is None and trained is not False else None
    if unclear is not None and not missing:
        raise PolicyKDError(
            f"teacher: {unclear} may hold the statistics of {path.name}: give vecnormalize=FILE, or vecnormalize=False "
            "if it never had any"
        )
    return Found(file, missing, unclear)


def _own(path: Path) -> Path | None:
    """A file named after the zip."""
    stem, checkpoint = path.stem, CHECKPOINT.fullmatch(path.stem)
    names = [f"{stem}/{name}" for name in NAMES]
    names += [
        name for kind in ("vecnormalize", "vec_normalize") for name in (f"{stem}_{kind}.pkl", f"{kind}_{stem}.pkl")
    ]
    if checkpoint:
        names.insert(0, f"{checkpoint[1]}_vecnormalize_{checkpoint[2]}_steps.pkl")
    return next((path.parent / name for name in names if (path.parent / name).is_file()), None)


def _of_run(path: Path, trained: bool | None) -> Path | None:
    """The final file of a run, in the zoo's folder or named after the run, for one of its checkpoints."""
    checkpoint = CHECKPOINT.fullmatch(path.stem)
    if path.stem != "best_model" and not checkpoint:
        return None
    task = re.sub(r"_\d+$", "", path.parent.name)
    folders = [
        f for f in sorted(path.parent.iterdir()) if f.is_dir() and (f.name == task or (f / "config.yml").is_file())
    ]
    files = [folder / name for folder in folders for name in NAMES]
    if checkpoint and trained is not False:
        files += [path.parent / f"{checkpoint[1]}_{name}" for name in NAMES]
    file = next((file for file in files if file.is_file()), None)
    if file is not None and checkpoint:
        log.warning(
            "teacher %s has no statistics from its own step: those from the end of its run are used, %s", path, file
        )
    return file


def _unclear(path: Path) -> Path | None:
    """A statistics file beside a zip that is named after no agent there, or after another agent of its run.

    It is recognised by its content, whatever its name. Many scripts save their run's final one beside the folder of
    SB3's callbacks (``logs/best_model``, ``logs/checkpoints``).
    """
    start = sb3.read_text(path).get("start_time")
    others = [other for other in path.parent.glob("*.zip") if other != path]
    by_callback = path.stem == "best_model" or CHECKPOINT.fullmatch(path.stem)
    above = (path.resolve().parent.parent / name for name in NAMES) if by_callback else ()
    for file in filter(_holds_statistics, above):
        return file
    for file in filter(_holds_statistics, sorted(path.parent.iterdir())):
        owner = next((other for other in others if _own(other) == file or file.name.startswith(other.stem)), None)
        same_run = owner is not None and start and sb3.read_text(owner).get("start_time") == start
        if file.name not in NAMES and (owner is None or same_run):
            return file
    return None


def _holds_statistics(file: Path) -> bool:
    """Whether a file begins like the pickle of a ``VecNormalize``."""
    try:
        if not file.is_file():
            return False
        with file.open("rb") as opened:
            return b"vec_normalize" in opened.read(100)
    except OSError:
        return False


def _shared(path: Path, trained: bool | None) -> Path | None:
    """A file in the zip's folder that is not named after it.

    Raises:
        PolicyKDError: there are other agents, and it may belong to any of them.
    """
    file = next((path.parent / name for name in NAMES if (path.parent / name).is_file()), None)
    if file is None:
        return None
    start = sb3.read_text(path).get("start_time")
    claims = []
    for other in sorted(path.parent.glob("*.zip")):
        data = sb3.read_text(other)
        same_run = start and data.get("start_time") == start
        if other != path and data and not same_run and _own(other) is None:
            claims.append(trained_normalised(data))
    if trained is False or (trained is None and True in claims):
        log.warning("teacher %s was trained without VecNormalize: %s is ignored", path, file)
        return None
    if True in claims or (trained is None and None in claims):
        raise PolicyKDError(
            f"teacher: {file} may belong to another agent in {path.parent}: give vecnormalize=FILE, or "
            f"vecnormalize=False if {path.name} never had one"
        )
    return file
