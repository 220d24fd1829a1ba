"""Reads and checks the content of a saved agent, for agents and teachers."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

from policykd.core import checkpoint
from policykd.core.errors import PolicyKDError
from policykd.core.files import CHECKPOINT, OPTIONS, as_path
from policykd.tasks.spaces import check_named


def read(path: str | Path, env: object) -> tuple[Path, dict[str, Any]]:
    """Read a checkpoint's content, and check that ``env`` is given if it is needed.

    Raises:
        PolicyKDError: the file is missing, damaged or foreign. No code in it is run.
    """
    path = as_path("load", path)
    if path.is_dir():
        runs = sorted(file.parent.name for file in path.glob(f"*/{CHECKPOINT}"))
        if runs and (path / OPTIONS).is_file():
            raise PolicyKDError(
                f"checkpoint: {path} is a run of classifiers, which have no policy; see its result.json"
            )
        if runs and not (path / CHECKPOINT).is_file():
            raise PolicyKDError(f"checkpoint: {path} contains several runs: choose one of {', '.join(runs)}")
        path /= CHECKPOINT
    loaded = checkpoint.load(path)
    if "settings" not in loaded or "learner" not in loaded:
        raise PolicyKDError(f"checkpoint: {path} is not an agent{', but a classifier' if 'student' in loaded else ''}")
    if env is None and not loaded["made_by_id"]:
        name = loaded["settings"]["env"]
        raise PolicyKDError(f"load: {path} was trained on an instance or a function of {name}: pass it as env=")
    if env is None:
        check_named(loaded["settings"]["env"], path)
    check_content(loaded, path)
    rename(loaded["settings"]["config"])
    return path, loaded


def rename(config: dict[str, Any]) -> None:
    """Update a saved config to current names: a factor of the teacher's variance was once called its temperature."""
    if "variance_scale" not in config and "teacher_std" in config:
        config["variance_scale"], config["temperature"] = config["temperature"], 1.0


def check_content(loaded: dict[str, Any], path: Path) -> None:
    """Refuse files not written by an agent, and settings of larger networks than the file holds, before making them.

    Raises:
        PolicyKDError: a counter is not a number, or learners or layers are larger than the file could hold.
    """
    if type(loaded["num_timesteps"]) is not int or loaded["compile"] not in (True, False, "auto", "later"):
        raise PolicyKDError(f"checkpoint: {path} is damaged: its counters are not numbers")
    settings, numbers = loaded["settings"], sum(tensor.numel() for tensor in loaded["learner"].values())
    own = settings["config"].get("network") is not None  # the size of a custom network is not checked
    widths = [] if own else settings["config"]["net_arch"]
    learners = len(settings["seeds"]) * settings["peers"]
    if learners * max(1, sum(a * b for a, b in itertools.pairwise(widths))) > numbers:
        raise PolicyKDError(f"checkpoint: {path} is damaged: its networks are smaller than its settings say")
