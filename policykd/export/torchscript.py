"""Exports a learner as a TorchScript file, for C++ (libtorch) or Python without policykd."""

from __future__ import annotations

import io
import warnings
from pathlib import Path

import torch
from torch import Tensor, nn

from policykd.core.files import as_path
from policykd.export import stateful
from policykd.export.deployed import deploy, description, input_size
from policykd.export.equivalence import Act, as_act, from_learner_inputs, write_compared
from policykd.export.exportable import Exportable, Inputs, Which
from policykd.teachers.programs import METADATA


def to_torchscript(agent: Exportable, k: Which, path: str | Path, inputs: Inputs = "own") -> float:
    """Write learner ``k`` as TorchScript, from raw observations ``(B, O)`` to actions ``(B, A)`` in the task's units.

    A policy with memory takes observations, starts of episodes ``(B,)`` and the state, and returns actions and state.

    Args:
        agent: whose learner.
        k: its index, or "best".
        path: the file.
        inputs: whether it reads the student's own part of the observation, or all of the task's.

    Returns:
        The largest distance from the learner, in actions scaled to [-1, 1].

    Raises:
        PolicyKDError: the file does not act like the learner, or exists (nothing is written).
    """
    k, path = agent.learner_index(k), as_path("export", path)
    if stateful.needs_state(agent, inputs):
        return stateful.write(
            agent, k, path, inputs, lambda episodes, file: _save(episodes.module, episodes.examples(), file, {}), _play
        )
    policy, size = deploy(agent, k, inputs), input_size(agent, inputs)
    files = {METADATA: description(agent, inputs)}
    return write_compared(
        agent,
        k,
        path,
        lambda file: _save(policy, (torch.zeros(2, size),), file, files),
        lambda file: from_learner_inputs(agent, inputs, _act(file)),
    ).worst


def _save(module: nn.Module, examples: tuple[Tensor, ...], path: Path, files: dict[str, str]) -> None:
    content = io.BytesIO()  # torch's own writer aborts the process if the disk is full
    with warnings.catch_warnings():  # TorchScript is deprecated in torch, but still deployed
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.jit.save(torch.jit.trace(module, examples), content, _extra_files=files)
    path.write_bytes(content.getvalue())


def _load(path: Path) -> torch.jit.ScriptModule:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return torch.jit.load(str(path))


def _act(path: Path) -> Act:
    return as_act(_load(path))


def _play(path: Path) -> stateful.Play:
    program = _load(path)
    return lambda *arrays: tuple(part.numpy() for part in program(*(torch.from_numpy(array) for array in arrays)))
