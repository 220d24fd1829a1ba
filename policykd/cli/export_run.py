"""Runs ``policykd export`` with parsed options."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np

from policykd.cli.export import FILES, ExportOptions, Format
from policykd.cli.output import say
from policykd.core.archives import read_npy
from policykd.core.errors import PolicyKDError
from policykd.core.fields import require
from policykd.export.c import Precision, as_arrays, to_c
from policykd.export.equivalence import require_free
from policykd.export.hub import to_hub_folder
from policykd.export.onnx import require_packages, to_onnx, to_onnx_int8
from policykd.export.sb3 import no_twin
from policykd.export.torchscript import to_torchscript
from policykd.export.zoo import to_zip
from policykd.measure.video import record_video
from policykd.tasks.spaces import short_id
from policykd.training.agent import Agent
from policykd.training.learner_choice import LearnerChoice
from policykd.training.loading import load_agent

SB3_FORMATS: tuple[Format, ...] = ("sb3", "hub")
"""Formats that contain a Stable-Baselines3 model."""


def run(options: ExportOptions) -> None:
    """Write a learner in every requested format."""
    require(bool(options.format), "format", (), f"needs one or more of {', '.join(FILES)}")
    require(options.n_eval_episodes >= 1, "n_eval_episodes", options.n_eval_episodes, "must be positive")
    require(options.seed >= 0, "seed", options.seed, "must not be negative")
    if options.states is not None and not any("int8" in kind for kind in options.format):
        raise PolicyKDError("states: they only calibrate int8: use --format c-int8 or onnx-int8, or leave them out")
    agent = load_agent(options.path, options.env)
    choice: LearnerChoice = options.learner
    k, task = agent.learner_index(choice), short_id(agent.env_id).replace("/", "-")
    own_only = [kind for kind in options.format if kind in SB3_FORMATS]
    if options.inputs == "full" and own_only:
        raise PolicyKDError(
            f"inputs: full is for onnx, torchscript and c, not {', '.join(own_only)}: choose them with --format"
        )
    formats = _formats_to_write(options.format, no_twin(agent))
    files = {kind: options.out / FILES[kind].format(task=task) for kind in dict.fromkeys(formats)}
    for file in files.values():  # before the first is written
        require_free(file)
    if "onnx" in files or "onnx-int8" in files:
        require_packages()
    if "c" in files or "c-int8" in files:  # C supports fewer policies than the other formats
        as_arrays(agent, k, options.inputs)
    say(f"learner {k} of {options.path} ({agent.env_id})")
    states = None if options.states is None else _read_states(options.states)
    # int8 first: only it can still be refused once made, for its calibration states or its distance from the learner
    for kind, file in sorted(files.items(), key=lambda item: "int8" not in item[0]):
        first, *rest = _write(kind, agent, k, file, states, options)
        say(f"{kind:12} {file}   {first}")
        for line in rest:
            say(f"{'':12} {line}")


def _formats_to_write(asked: tuple[Format, ...], reason: str | None) -> tuple[Format, ...]:
    """The formats to write; the defaults leave out those of SB3 if there is a ``reason`` against them.

    Raises:
        PolicyKDError: SB3's formats were requested explicitly.
    """
    refused = [kind for kind in asked if reason and kind in SB3_FORMATS]
    if refused and asked != ExportOptions.format:
        raise PolicyKDError(f"format: no {', '.join(refused)}: {reason}")
    if refused:
        say(f"without {' and '.join(refused)}: {reason}")
    return tuple(kind for kind in asked if kind not in refused)


def _write(
    kind: Format, agent: Agent, k: int, file: Path, states: np.ndarray | None, options: ExportOptions
) -> list[str]:
    """Write one format; returns the lines to print about it."""
    if kind == "hub":
        score = to_hub_folder(
            agent, k, file, options.n_eval_episodes, options.seed, record_video if options.video else None
        )
        result = f"return {score.mean:,.1f} +/- {score.returns.std():,.1f}"
        return [result, f"to publish it: hf upload USER/MODEL {file}"]
    if kind in ("c", "c-int8"):
        precision: Precision = "int8" if kind == "c-int8" else "float32"
        return ["policy.h, policy.c", *to_c(agent, k, file, precision, states, options.inputs).lines()]
    if kind == "onnx-int8":
        worst, mean, count = to_onnx_int8(agent, k, file, states, options.inputs)
        difference = f"{worst:.1e}, on average {mean:.1e} ({count:,} observations)"
    else:
        difference = f"{_one_file(kind, agent, k, file, options):.1e}"
    return [f"{file.stat().st_size:,} bytes, differs by at most {difference}"]


def _one_file(kind: Format, agent: Agent, k: int, file: Path, options: ExportOptions) -> float:
    """Write a format of one file; returns its largest distance from the learner."""
    if kind == "sb3":
        return to_zip(agent, k, file)
    return (to_onnx if kind == "onnx" else to_torchscript)(agent, k, file, options.inputs)


def _read_states(path: Path) -> np.ndarray:
    """Read observations from a NumPy file; pickles in it are refused."""
    try:
        return read_npy(path)
    except (OSError, KeyError, ValueError, zipfile.BadZipFile) as error:
        raise PolicyKDError(f"states: {path} cannot be read as a .npy file of observations: {error}") from None
